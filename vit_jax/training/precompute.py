"""What a frozen tower makes of the training data, computed once instead of in every step.

A task says which outputs its loss takes from its batch where they are there (`Task.takes`). One of them that no trained
parameter has a part in, of images that are the same in every epoch, is computed for all examples before the first step,
and kept in a directory under the digest of the parameters that it was computed with; training batches hold it in place
of the image, or beside it where the loss sees the image too (`Task.takes_beside`). Evaluation goes on as always.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree, Shaped

from vit_jax.data.batch import NotedBatch
from vit_jax.data.fields import Fields
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.stored import Stored, WithStored
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply
from vit_jax.evaluators.features import FeatureCache, digest
from vit_jax.naming import nearest
from vit_jax.nn.part_in import part_in
from vit_jax.tasks import Batch, Task, Variables, example_keys
from vit_jax.training.evaluation import Evaluation
from vit_jax.training.parameters import path_name


@dataclasses.dataclass(frozen=True)
class Precompute:
    """`config.precompute`.

    Args:
        output: of the task, such as "image_embedding"; as evaluation computes it, so without dropout.
        directory: where it is kept, for other runs with the same tower too; None for `features` in the workdir. Data is
            known by its section of the config: files that are exchanged in place need another directory.
    """

    output: str
    directory: str | None = None


@dataclasses.dataclass(frozen=True)
class Planned:
    """What is to be computed, known before anything is.

    Args:
        section: of the config.
        task: whose output it is.
        on_device_eval: what turns a batch from the host into what the task expects.
        whole: every training example once, as training shows it.
        pipeline: from a source and its fields to the training batches of the run.
        fields: of the data.
        row: shape and dtype of one example's output.
        reads: the arrays of a batch that it is computed from.
        needed: mask over the variables that it is computed with.
    """

    section: Precompute
    task: Task
    on_device_eval: Callable[[Batch], Batch]
    whole: EvalPipeline
    pipeline: Callable[[WithStored, Fields], TrainPipeline]
    fields: Fields
    row: jax.ShapeDtypeStruct
    reads: frozenset[str]
    needed: PyTree

    @property
    def replaced(self) -> frozenset[str]:
        """The arrays of a batch in whose place it stands."""
        return self.reads - {*self.task.takes_beside}

    def batch(self, raw: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        """A training batch of which the output is a part, from one as the data has it."""
        size = jax.tree.leaves(raw)[0].shape[0]
        rows = jax.ShapeDtypeStruct((size, *self.row.shape), self.row.dtype)
        return {k: v for k, v in raw.items() if k not in self.replaced} | {self.section.output: rows}

    def computed(self, variables: Variables, workdir: epath.Path, mesh: Mesh, seed: int) -> TrainPipeline:
        """The run's training batches, after computing what they hold, or reading it. To be called in all processes."""
        output = self.section.output
        cache = None
        if jax.process_count() == 1:
            used = [x for x, needed in zip(*map(jax.tree.leaves, (variables, self.needed)), strict=True) if needed]
            model = digest(used, [type(self.task).__name__, self.task.model_spec])
            cache = FeatureCache(self.section.directory or workdir / "features", model)
        found = cache and cache.read(output, self.whole.description)
        if found is None:
            evaluation = Evaluation({output: self}, self.task.outputs, self.on_device_eval, mesh, seed=seed)
            parts = list(evaluation.measured(output, variables, self.whole))
            valid = np.concatenate([part["valid"] for part in parts]) > 0
            found = tuple(np.concatenate([part[name] for part in parts])[valid] for name in ("rows", "index"))
            if cache:
                cache.write(output, self.whole.description, found)
        rows: Shaped[np.ndarray, "N ..."] = found[0]
        kinds = {name: kind for name, kind in self.fields.items() if self.replaced.isdisjoint(kind.spec(name))}
        kinds[output] = Stored(self.row.shape, str(self.row.dtype))
        return self.pipeline(WithStored(self.whole.source, output, rows, self.replaced), Fields(kinds))

    def measure(self, apply: Apply, batch: Batch) -> dict[str, jax.Array]:
        """What is kept of a batch of `whole`."""
        rows = apply(batch, (self.section.output,))[self.section.output]
        return {"rows": rows, "index": batch["index"], "valid": batch["valid"]}


def planned(
    section: Precompute,
    task: Task,
    variables: Variables,
    frozen: PyTree,
    raw: Mapping[str, jax.ShapeDtypeStruct],
    **others: Any,
) -> Planned:
    """Checks that an output can be computed once.

    Args:
        variables: shapes of what the task initialises.
        frozen: mask over the parameters.
        raw: shapes of a batch from the host.
        others: of `Planned`.

    Raises:
        UserError: for an output that the task's loss does not take, that a trained parameter has a part in, or that is
            computed from a text chosen at random.
    """
    name = section.output
    if name not in task.takes:
        how = nearest(name, task.takes) if task.takes else "Remove config.precompute"
        raise UserError(f"The loss of this task takes no {name!r} that was computed before", how)
    reads: set[str] = set()

    def output(variables: Variables, batch: Batch) -> jax.Array:
        batch = NotedBatch(others["on_device_eval"](batch), reads)
        return task.outputs(variables, batch, frozenset([name]), example_keys(0, raw))[name]

    traced, rows = jax.make_jaxpr(output, return_shape=True)(variables, dict(raw))
    leaves, structure = jax.tree.flatten(variables)
    needed = jax.tree.unflatten(structure, part_in(traced.jaxpr)[: len(leaves)])
    for (path, used), fixed in zip(jax.tree.leaves_with_path(needed["params"]), jax.tree.leaves(frozen), strict=True):
        if used and not fixed:
            raise UserError(
                f"{name!r} cannot be computed once: {path_name(path)!r}, which is trained, has a part in it",
                "Add it to config.optim.frozen, or remove config.precompute",
            )
    if chosen := sorted(reads & others["fields"].choosing):
        raise UserError(
            f"{name!r} cannot be computed once: the field {chosen[0]!r} of an example may be another one in each epoch",
            "Remove config.precompute",
        )
    row = jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype)
    return Planned(section, task, row=row, reads=frozenset(reads), needed=needed, **others)
