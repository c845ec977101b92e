"""A config's program without its data: what `bench` runs on random images and `plan` compiles for other machines."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax.data.batch import NotedBatch
from vit_jax.data.fields import Fields
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.naming import build_named, construct
from vit_jax.nn.platform import computing_on
from vit_jax.tasks import Batch, DataInfo, Task, Variables
from vit_jax.training.adapted import with_adapters
from vit_jax.training.config import RunConfig, run_config
from vit_jax.training.inputs import Inputs, build_inputs
from vit_jax.training.precompute import Precompute, planned
from vit_jax.training.program import Program, build_program
from vit_jax.training.sharding import check_batch, make_mesh
from vit_jax.training.units import Units, units_of


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
        """A whole batch of random images, labels and other fields, as training sends it."""
        return self._random(self.shapes, np.random.default_rng(0))

    def eval_batch(self) -> dict[str, np.ndarray]:
        """A batch as evaluation sends it: each image once, however many views training makes of it."""
        return self._random(self._eval_shapes, np.random.default_rng(1))

    @property
    def _eval_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        kinds, size = self.inputs.kinds(), self.config.batch_size
        # Of image classification the image is all that outputs depend on.
        specs = {name: spec for name, spec in kinds.specs.items() if kinds.explicit or name == "image"}
        return {name: jax.ShapeDtypeStruct((size, *spec.shape), spec.dtype) for name, spec in specs.items()}

    def _random(self, shapes: Mapping[str, jax.ShapeDtypeStruct], rng: np.random.Generator) -> dict[str, np.ndarray]:
        specs = self.inputs.kinds(_names(self.classes)).specs
        return {
            name: rng.integers(0, specs[name].limit, leaf.shape, _whole(leaf.dtype)).astype(leaf.dtype)
            if name in specs
            else np.zeros(leaf.shape, leaf.dtype)
            for name, leaf in shapes.items()
        }

    def forward_flops(self) -> float | None:
        """FLOP of one example in evaluation, counted on paper; None where nobody counts them."""
        return self.task.forward_flops(self._eval_shapes)

    def training_flops(self) -> float | None:
        """The same of one example in the train step, see `Program.flops`."""
        return self.program.flops()

    def implementations(self) -> dict[str, str]:
        """How the model runs what has several implementations, on the devices of the mesh, where it says so itself
        (`implementations()`): {"convolutions": "products"}."""
        said = getattr(getattr(self.task, "model", None), "implementations", dict)
        with computing_on(self.mesh.devices.flat[0].platform):
            return said()

    def units(self) -> Units:
        """In what a step's speed is counted."""
        return units_of(self.shapes, self.inputs.kinds())


def rehearse(values: Mapping[str, Any], classes: int, devices: Sequence[jax.Device] | None = None) -> Rehearsal:
    """Builds and checks a plain config without opening its data.

    Args:
        values: the config.
        classes: outputs of the head; the data would know.
        devices: all of this machine by default.
    """
    config, inputs, kinds, task = _parts(values, classes)
    task = with_adapters(task, config.lora)
    mesh = make_mesh(config.mesh, devices)
    check_batch(mesh, config.batch_size, config.microbatch)
    shapes = _batch_shapes(config, inputs, kinds)
    precompute = None
    if config.precompute is not None:
        section = construct(Precompute, config.precompute, "config.precompute")
        others = {"on_device_eval": inputs.on_device_eval(), "whole": None, "pipeline": None, "fields": kinds}
        precompute = functools.partial(planned, section, task, **others)
    program = build_program(config, task, inputs.on_device(classes), shapes, mesh, precompute=precompute)
    return Rehearsal(config, inputs, task, classes, mesh, program, program.batch)


def rehearse_task(values: Mapping[str, Any], classes: int) -> tuple[Task, Variables]:
    """The task of a plain config and the shapes of its variables, without data, optimizer and train step; what adapters
    learned is in its kernels then.

    Args:
        values: the config.
        classes: of the data, which would know.
    """
    config, inputs, kinds, task = _parts(values, classes)
    shapes = _batch_shapes(config, inputs, kinds)
    on_device, key = inputs.on_device(classes), jax.random.key(0)

    def init(batch: Batch) -> Variables:
        return task.init(key, NotedBatch(on_device(batch, key)))

    return task, jax.eval_shape(init, shapes)


def _parts(values: Mapping[str, Any], classes: int) -> tuple[RunConfig, Inputs, Fields, Task]:
    # Durations in epochs need the length of a data set, which is not read: any will do, since no schedule ends here.
    config = run_config(values).in_steps(examples=1_000_000)
    inputs = build_inputs(config.data)
    kinds = inputs.kinds(_names(classes))
    weights = config.task.get("class_weights")
    named = [*weights][:classes] if isinstance(weights, Mapping) else []  # classes that the data would have, too
    data = DataInfo(inputs.image_size, (*named, *_names(classes - len(named))), kinds)
    return config, inputs, kinds, build_named("task", config.task, "config.task", model=config.model, data=data)


def _batch_shapes(config: RunConfig, inputs: Inputs, kinds: Fields) -> dict[str, jax.ShapeDtypeStruct]:
    return {k: jax.ShapeDtypeStruct((config.batch_size, *s.shape), s.dtype) for k, s in _row(inputs, kinds).items()}


def _names(classes: int) -> tuple[str, ...]:
    """Of the made-up labels."""
    return tuple(f"class {i}" for i in range(classes))


def _row(inputs: Inputs, kinds: Fields) -> dict[str, jax.ShapeDtypeStruct]:
    """One example of a training batch, as its fields say; but some transforms make several views of an image, so a
    made-up one is sent through."""
    found = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for name, spec in kinds.specs.items()}
    transform = inputs.augmentation(kinds)
    if transform is not None:
        image = np.zeros((*inputs.image_size, 3), np.uint8)
        plain = dataclasses.replace(inputs, fields=None)
        source = ArraySource(image[None], np.zeros(1, np.int32), ("class",))
        view = plain.train_pipeline(source, batch_size=plain.repeats, seed=0).batch(0, plain.repeats, 0)["image"]
        found["image"] = jax.ShapeDtypeStruct(view.shape[1:], view.dtype)
    return {**found, "corrupt": jax.ShapeDtypeStruct((), np.int32)}


def _whole(dtype: np.dtype) -> np.dtype:
    """In what made-up whole numbers are drawn."""
    return dtype if dtype.kind in "iub" else np.dtype(np.int32)
