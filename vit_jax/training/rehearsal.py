"""A config's program without its data: what `bench` runs on random images and `plan` compiles for other machines."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax.data.sources.arrays import ArraySource
from vit_jax.naming import build_named
from vit_jax.nn.flops import forward_flops
from vit_jax.tasks import DataInfo, Task, training_flops
from vit_jax.training.config import RunConfig, run_config
from vit_jax.training.inputs import Inputs, build_inputs
from vit_jax.training.program import Program, build_program
from vit_jax.training.sharding import check_batch, make_mesh


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """The parts of a run that do not need its data.

    Args:
        config: with durations in steps, of a data set of made-up length.
        classes: of the made-up labels.
        shapes: of a batch as the host sends it.
    """

    config: RunConfig
    inputs: Inputs
    task: Task
    classes: int
    mesh: Mesh
    program: Program
    shapes: Mapping[str, jax.ShapeDtypeStruct]

    def batch(self) -> dict[str, np.ndarray]:
        """A whole batch of random images and labels, as training sends it."""
        rng = np.random.default_rng(0)
        limits = {"image": 256, "label": self.classes}
        return {
            name: rng.integers(0, limits[name], leaf.shape, leaf.dtype) if name in limits
            else np.zeros(leaf.shape, leaf.dtype)
            for name, leaf in self.shapes.items()
        }  # fmt: skip

    def eval_batch(self) -> dict[str, np.ndarray]:
        """A batch as evaluation sends it: each image once, however many views training makes of it."""
        rng, size = np.random.default_rng(1), self.config.batch_size
        return {"image": rng.integers(0, 256, (size, *self.inputs.image_size, 3), np.uint8)}

    def forward_flops(self) -> float | None:
        """FLOP of one image through the encoder, counted on paper; None for an encoder that is not a ViT's."""
        return forward_flops(getattr(self.task, "model", None), self.inputs.image_size)

    def training_flops(self) -> float | None:
        """The same of one example in the train step."""
        return training_flops(self.task, self.inputs.image_size)


def rehearse(values: Mapping[str, Any], classes: int, devices: Sequence[jax.Device] | None = None) -> Rehearsal:
    """Builds and checks a plain config without opening its data.

    Args:
        values: the config.
        classes: outputs of the head; the data would know.
        devices: all of this machine by default.
    """
    # Durations in epochs need the length of a data set, which is not read: any will do, since no schedule ends here.
    config = run_config(values).in_steps(examples=1_000_000)
    inputs = build_inputs(config.data)
    data = DataInfo(inputs.image_size, tuple(f"class {i}" for i in range(classes)))
    task = build_named("task", config.task, "config.task", model=config.model, data=data)
    mesh = make_mesh(config.mesh, devices)
    check_batch(mesh, config.batch_size, config.microbatch)
    # One made-up image through the transform tells what a batch looks like: some make several views.
    height, width = inputs.image_size
    source = ArraySource(np.zeros((1, height, width, 3), np.uint8), np.zeros(1, np.int32), data.label_names)
    row = inputs.train_pipeline(source, config.batch_size, config.seed).batch(0, config.batch_size, 0)
    shapes = {k: jax.ShapeDtypeStruct((config.batch_size, *v.shape[1:]), v.dtype) for k, v in row.items()}
    program = build_program(config, task, inputs.prepare(classes), shapes, mesh)
    return Rehearsal(config, inputs, task, classes, mesh, program, shapes)
