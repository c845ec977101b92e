"""Running evaluators: the same code during training and from the command line."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from vit_jax.checkpoints.load import Loaded
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Evaluator
from vit_jax.naming import build_named
from vit_jax.tasks import Batch, Variables
from vit_jax.training.config import run_config
from vit_jax.training.inputs import Inputs, build_inputs, normalize_images
from vit_jax.training.sharding import batch_sharding, check_batch, host_rows, make_mesh, put, replicated

OutputsFn = Callable[[Variables, Batch], Mapping[str, Array]]


def build_evaluators(section: Mapping[str, Any], inputs: Inputs, batch_size: int) -> dict[str, Evaluator]:
    """The evaluators of `config.evals`, by the name under which they log."""
    evaluators = {}
    for name, values in section.items():
        if not isinstance(values, Mapping):
            raise UserError(f"config.evals.{name} is {values!r}", "It must be a section with the name of an evaluator")
        pipeline = functools.partial(inputs.eval_pipeline, batch_size, f"config.evals.{name}")
        evaluators[name] = build_named("evaluator", values, f"config.evals.{name}", pipeline=pipeline)
    return evaluators


class Evaluation:
    """Evaluators bound to a task's outputs and a mesh; each compiles once and can run many times.

    Args:
        evaluators: by name.
        outputs: the task's `outputs`, for batches as `prepare` leaves them.
        prepare: what turns a batch from the host into what the task expects.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        outputs: OutputsFn,
        prepare: Callable[[Batch], Batch],
        mesh: jax.sharding.Mesh,
    ):
        self._evaluators = dict(evaluators)
        self._batches = batch_sharding(mesh)
        self._mesh = mesh
        self._compiled = {}
        for name, evaluator in self._evaluators.items():

            def measure(
                variables: Variables, batch: Batch, name: str = name, evaluator: Evaluator = evaluator
            ) -> PyTree:
                batch = prepare(batch)
                found = outputs(variables, batch) if evaluator.needs else {}
                for need in evaluator.needs:
                    if need not in found:
                        raise UserError(
                            f"The evaluator '{name}' needs '{need}', which this task does not give",
                            f"It gives {', '.join(sorted(found))}; remove config.evals.{name}",
                        )
                return evaluator.measure(found, batch)

            self._compiled[name] = jax.jit(measure, out_shardings=replicated(mesh))

    def run(self, variables: Variables) -> dict[str, float]:
        """All metrics as 'evaluator/metric'."""
        results = {}
        for name, evaluator in self._evaluators.items():
            metrics = evaluator.metrics(functools.partial(self._measure, name, variables))
            results |= {f"{name}/{k}": float(v) for k, v in metrics.items()}
        return results

    def _measure(self, name: str, variables: Variables, pipeline: EvalPipeline) -> Iterator[PyTree[np.ndarray]]:
        check_batch(self._mesh, pipeline.batch_size, None)
        slices, index = host_rows(self._batches, pipeline.batch_size)
        pending = None
        for batch in pipeline.iterate(slices, index):
            # One batch behind: the host decodes the next while the device works on this one.
            running = self._compiled[name](variables, put(batch, self._batches))
            if pending is not None:
                yield jax.device_get(pending)
            pending = running
        if pending is not None:
            yield jax.device_get(pending)


def check_labels(label_names: tuple[str, ...], evaluators: Mapping[str, Evaluator]) -> None:
    """A classifier is evaluated on its own classes; others would be counted as errors, or worse, as hits."""
    for name, evaluator in evaluators.items():
        if "logits" not in evaluator.needs:
            continue
        theirs = tuple(evaluator.pipeline.source.label_names)
        if theirs != label_names:
            stray = sorted(set(theirs) ^ set(label_names))
            differ = f"they differ in {stray[0]!r}" if stray else "in another order"
            raise UserError(
                f"The model has {len(label_names)} classes and config.evals.{name} has {len(theirs)}: {differ}",
                "Give both the same classes",
            )


def evaluate_loaded(loaded: Loaded, values: Mapping[str, Any]) -> dict[str, float]:
    """Runs the evaluators of a plain config on a loaded checkpoint, with the checkpoint's own preprocessing."""
    config = run_config(values)
    if not config.evals:
        raise UserError("The config names no evaluators", "Add one, for example --config.evals.val.name=classification")
    preprocess = loaded.preprocess.to_json()
    inputs = build_inputs({**config.data, "image_size": preprocess.pop("image_size"), "preprocess": preprocess})
    evaluators = build_evaluators(config.evals, inputs, config.batch_size)
    check_labels(loaded.labels, evaluators)

    def outputs(variables: Variables, batch: Batch) -> Mapping[str, Array]:
        return loaded.model.apply(variables, batch["image"], train=False)

    mesh = make_mesh(config.mesh)
    prepare = functools.partial(normalize_images, loaded.preprocess)
    variables = {"params": loaded.params, **loaded.model_state}
    return Evaluation(evaluators, outputs, prepare, mesh).run(jax.device_put(variables, replicated(mesh)))
