"""Running statistics of batch normalisation, estimated anew for the parameters that are evaluated.

Those of training are a moving mean over batches that were mixed and augmented, seen by parameters that were still
changing; an average of parameters never saw a batch at all. Before an evaluation EfficientViT's authors normalise
16,000 training images by their own batches of 100, and take the means of what these have (arXiv:2205.14756; the
`reset_bn` of their code).
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from vit_jax.data.pipeline import TrainPipeline
from vit_jax.data.source import Source
from vit_jax.errors import UserError
from vit_jax.nn.batch_norm import by_batch
from vit_jax.tasks import Batch, Task, Variables, example_keys
from vit_jax.training.inputs import Inputs
from vit_jax.training.parameters import leaf_names, path_name
from vit_jax.training.sharding import place, replicated
from vit_jax.training.state import State, variables_of

_BATCH = 100  # the authors' batch, on however many devices: the variance of a batch depends on its size


@dataclasses.dataclass(frozen=True)
class Recalibration:
    """What estimates the statistics of a task's model; the same on any number of devices, each of which computes all.

    Args:
        task: its `answered_by` outputs are computed, as in evaluation but for the norms, or else its features. Norms
            that have no part in these, such as a projector's, keep what they have.
        on_device_eval: what turns a batch from the host into what the task expects.
        pipeline: training's images, augmented as in training, but not mixed.
        batches: how many of its batches are taken.
    """

    task: Task
    on_device_eval: Callable[[Batch], Batch]
    pipeline: TrainPipeline
    batches: int

    def check(self, variables: Variables) -> None:
        """Finds before any training that there is nothing to estimate.

        Args:
            variables: shapes and types are enough.

        Raises:
            UserError: for a model without such statistics.
        """
        size = self.pipeline.batch_size
        row = self.pipeline.batch(0, size, 0)
        batch = {k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype) for k, v in row.items()}
        found = jax.eval_shape(self._of_batch, _plain(variables), batch)
        held = set(leaf_names(variables["model_state"]))
        if not found:
            raise UserError(
                "There are no running statistics to recalibrate: this model has no batch normalisation",
                "Leave recalibrate out",
            )
        if unknown := sorted(found.keys() - held):
            raise UserError(
                f"{unknown[0]!r} is not among the running statistics by that name: this task applies a part of its "
                "model by itself",
                "Leave recalibrate out",
            )

    def __call__(self, variables: Variables, mesh: Mesh) -> dict[str, np.ndarray]:
        """The statistics by name, 'batch_stats/encoder/norm1/mean'. To be called in all processes.

        Args:
            variables: on the mesh.
        """
        everywhere = replicated(mesh)
        of_batch = jax.jit(self._of_batch, out_shardings=everywhere)
        total: dict[str, Any] = {}
        with contextlib.closing(self.pipeline.iterate()) as batches:
            for batch in itertools.islice(batches, self.batches):
                found = of_batch(_plain(variables), {k: place(v, everywhere) for k, v in batch.items()})
                total = {k: total.get(k, 0.0) + np.asarray(v, np.float64) for k, v in found.items()}
        return {name: (value / self.batches).astype(np.float32) for name, value in total.items()}

    def state(self, state: State, product: str, mesh: Mesh) -> State:
        """The training state whose product, 'params' or 'ema', has statistics of its own."""
        found = self(variables_of(state, product), mesh)
        averaged = state.get("ema_model_state", {}) if product == "ema" else {}
        # Each where the product has it from: what has no average is in the state of the parameters.
        theirs = {name: found[name] for name in found.keys() & set(leaf_names(averaged))}
        state = {**state, "model_state": replaced(state["model_state"], {k: found[k] for k in found.keys() - theirs})}
        return state | ({"ema_model_state": replaced(averaged, theirs)} if averaged else {})

    def _of_batch(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        batch = self.on_device_eval(batch)
        with by_batch() as found:
            self.task.outputs(
                variables, batch, frozenset(self.task.answered_by or ("features",)), example_keys(0, batch)
            )
        return found


def recalibration(examples: int, task: Task, inputs: Inputs, source: Source, seed: int, key: str) -> Recalibration:
    """One over so many training images.

    Args:
        key: what asks for it, for errors.

    Raises:
        UserError: for a number that is not one of whole batches.
    """
    if examples < 2 or (examples > _BATCH and examples % _BATCH):
        raise UserError(f"{key} is {examples}", f"Give a multiple of {_BATCH}, or for a trial 2 to {_BATCH} images")
    size = min(examples, _BATCH)
    pipeline = dataclasses.replace(inputs, repeats=1).train_pipeline(source, size, seed)
    return Recalibration(task, inputs.on_device_eval(), pipeline, examples // size)


def replaced(tree: dict[str, Any], statistics: dict[str, np.ndarray]) -> dict[str, Any]:
    """A model state with other values where `statistics` names some, each where the old one lies."""

    def other(path: tuple, leaf: jax.Array) -> jax.Array:
        value = statistics.get(path_name(path))
        return leaf if value is None else place(value.astype(leaf.dtype), leaf.sharding)

    return jax.tree.map_with_path(other, tree)


def _plain(variables: Variables) -> Variables:
    return {"params": variables["params"], "model_state": variables["model_state"]}
