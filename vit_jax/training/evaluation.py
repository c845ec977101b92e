"""Running evaluators: the same code during training and from the command line."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, PRNGKeyArray, PyTree

from vit_jax.checkpoints.given_pictures import Pictures
from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.sampling import BATCH_SIZE, Samples, check_sample, sample, settings_of
from vit_jax.data.batch import NotedBatch
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, Apply, Evaluator, Keep, features
from vit_jax.evaluators.features import FeatureCache, Labelled
from vit_jax.naming import build_named
from vit_jax.nn.batch_axis import batch_split_like
from vit_jax.tasks import Batch, Task, Variables, example_keys
from vit_jax.training.config import RunConfig, run_config
from vit_jax.training.inputs import Inputs, build_inputs
from vit_jax.training.recalibrate import recalibration, replaced
from vit_jax.training.sharding import batch_sharding, check_batch, host_rows, make_mesh, place, put, replicated

# (variables, batch from the host, seed) -> what is kept of the batch
OfBatch = Callable[[Variables, Batch, np.uint32], PyTree]
OutputsFn = Callable[[Variables, Batch, frozenset[str], PRNGKeyArray], Mapping[str, Array]]


def build_evaluators(section: Mapping[str, Any], inputs: Inputs, batch_size: int) -> dict[str, Evaluator]:
    """The evaluators of `config.evals`, by the name under which they log."""
    evaluators = {}
    for name, values in section.items():
        if not isinstance(values, Mapping):
            raise UserError(f"config.evals.{name} is {values!r}", "It must be a section with the name of an evaluator")
        pipeline = functools.partial(inputs.eval_pipeline, batch_size, f"config.evals.{name}")
        own = {key: value for key, value in values.items() if key != "every"}
        evaluators[name] = build_named("evaluator", own, f"config.evals.{name}", pipeline=pipeline)
    return evaluators


def intervals(config: RunConfig) -> dict[str, int | None]:
    """Steps between two runs of each evaluator: its own `every`, or else `config.eval_every`; None: at the end."""
    every = {}
    for name, values in config.evals.items():
        every[name] = values.get("every", config.eval_every)
        if every[name] is not None and (not isinstance(every[name], int) or every[name] < 1):
            raise UserError(f"config.evals.{name}.every is {every[name]!r}", "Give steps, at least 1")
    return every


class Evaluation:
    """Evaluators bound to a task's outputs and a mesh; each compiles once and can run many times.

    Args:
        evaluators: by name.
        outputs: the task's `outputs`, for batches as `on_device` leaves them.
        on_device: what turns a batch from the host into what the task expects.
        every: steps between two runs of an evaluator, see `intervals`.
        cache: where frozen features are kept on disk; for a single model, in a single process.
        keep: see `evaluate_loaded`.
        seed: of the keys that `outputs` gets, see `vit_jax.tasks.example_keys`.
        task: what draws samples; None where no evaluator asks for any.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        outputs: OutputsFn,
        on_device: Callable[[Batch], Batch],
        mesh: jax.sharding.Mesh,
        every: Mapping[str, int | None] | None = None,
        cache: FeatureCache | None = None,
        keep: Keep | None = None,
        seed: int = 0,
        task: Task | None = None,
    ):
        self._evaluators = dict(evaluators)
        self._task = task
        self._outputs = outputs
        self._on_device = on_device
        self._mesh = mesh
        self._every = every or {}
        self._cache = cache
        self._keep = keep
        self._seed = np.uint32(seed)
        self._read: set[str] = set()
        self._compiled: dict[str, OfBatch] = {}

    @property
    def read(self) -> frozenset[str]:
        """Names of the arrays of batches that evaluators read, or what they ask the task for; known after `check`."""
        return frozenset(self._read)

    def due(self, step: int, last: bool) -> list[str]:
        """Names of the evaluators that run after `step`; all of them after the last."""
        return [name for name in self._evaluators if last or (self._every.get(name) and step % self._every[name] == 0)]

    def run(
        self,
        variables: Variables,
        names: Collection[str] | None = None,
        failed: dict[str, UserError] | None = None,
        pictures: Keep | None = None,
    ) -> dict[str, float]:
        """The metrics of the named evaluators (of all by default) as 'evaluator/metric'.

        Args:
            failed: receives what ended an evaluator, by its name, and the others go on. Without it, and where several
                processes compute together, so that others may wait for this one, it is raised.
            pictures: takes those that a run keeps of each of its evaluations, named 'evaluator_file'.
        """
        results, shared = {}, {}
        for name, evaluator in self._evaluators.items():
            if names is not None and name not in names:
                continue
            try:
                metrics = evaluator.metrics(_EvaluationRun(self, name, variables, shared, pictures))
            except UserError as error:
                named = UserError(f"The evaluator '{name}' failed: {error.what}", error.what_to_do)
                if failed is None or jax.process_count() > 1:
                    raise named from error
                failed[name] = named
                continue
            results |= {f"{name}/{k}": float(v) for k, v in metrics.items()}
        return results

    def check(self, variables: Variables) -> None:
        """Finds before any training what an evaluator will lack: outputs of the task, labels, readable images.

        Reads the first batch of each set and traces what is measured of it; computes nothing.

        Args:
            variables: shapes and types are enough; with their shardings what is traced here serves `run` too.

        Raises:
            UserError: names the evaluator.
        """
        for name, evaluator in self._evaluators.items():
            try:
                if hasattr(evaluator, "check"):
                    evaluator.check()
                if (settings := getattr(evaluator, "sampling", None)) is not None:
                    given = getattr(evaluator, "gives", ())
                    check_sample(self._sampled, variables, settings, batch_sharding(self._mesh), given)
                for field in dataclasses.fields(evaluator) if dataclasses.is_dataclass(evaluator) else ():
                    if isinstance(pipeline := getattr(evaluator, field.name), EvalPipeline):
                        self._check_first_batch(name, evaluator, variables, pipeline, field.name)
            except UserError as error:
                named = f"'{name}'" in error.what or f"config.evals.{name}" in error.what
                what = error.what if named else f"The evaluator '{name}' would fail: {error.what}"
                raise UserError(what, error.what_to_do) from error

    def _check_first_batch(
        self, name: str, evaluator: Evaluator, variables: Variables, pipeline: EvalPipeline, field: str
    ) -> None:
        check_batch(self._mesh, pipeline.batch_size, None)
        rows = batch_sharding(self._mesh)
        with contextlib.closing(pipeline.iterate(*host_rows(rows, pipeline.batch_size))) as batches:
            first = next(batches)
        # As it will lie on the mesh: what is traced for other arguments would be traced again for these.
        batch = {
            k: jax.ShapeDtypeStruct((pipeline.batch_size, *v.shape[1:]), v.dtype, sharding=rows)
            for k, v in first.items()
        }
        if hasattr(evaluator, "measure"):
            of_batch = self._of_batch(name, evaluator.measure)
        else:
            output = getattr(evaluator, "features", None)
            output = output.get(field) if isinstance(output, Mapping) else output
            if not isinstance(output, str):
                return
            of_batch = self._of_features(output)
        of_batch.eval_shape(variables, batch, self._seed)

    def measured(self, name: str, variables: Variables, pipeline: EvalPipeline) -> Iterator[PyTree[np.ndarray]]:
        """What an evaluator keeps of each batch, on the host."""
        return self._batches(self._of_batch(name, self._evaluators[name].measure), variables, pipeline)

    def features(self, output: str, variables: Variables, pipeline: EvalPipeline) -> Labelled:
        """A whole set's features; one compiled function serves all evaluators."""
        cache = self._cache if pipeline.description is not None else None
        found = cache.read(output, pipeline.description) if cache else None
        if found is None:
            batches = self._batches(self._of_features(output), variables, features.labelled(pipeline))
            found = features.collect(batches)
            if cache:
                cache.write(output, pipeline.description, found)
        return found

    def samples(
        self,
        variables: Variables,
        known: dict[Any, Any],
        count: int,
        seed: int,
        prompts: Sequence[str],
        pictures: Pictures | None,
        paste: bool,
        batch_size: int,
        settings: Mapping[str, Any],
    ) -> Samples:
        """See `vit_jax.evaluators.EvaluationRun`; `known` holds what was drawn before with these variables."""
        chosen = settings_of(self._sampled, settings, "a generator of images")
        if count < 1:
            raise UserError(f"{count} samples are asked for", "Ask for at least 1")
        how = {"prompts": prompts, "seed": seed, "batch_size": batch_size, "rows": batch_sharding(self._mesh)}
        if pictures:
            how |= {"pictures": pictures, "paste": paste}
            return Samples.joined(list(sample(self._sampled, variables, range(count), settings=chosen, **how)))
        key = (seed, tuple(prompts), chosen)
        parts = [known[key]] if key in known else []
        if missing := range(len(parts[0]) if parts else 0, count):
            parts += sample(self._sampled, variables, missing, settings=chosen, **how)
            known[key] = Samples.joined(parts)
        return known[key][:count]

    @property
    def _sampled(self) -> Task:
        if self._task is None:
            raise UserError("There is no task here that could be sampled", "Evaluate a checkpoint, or train")
        return self._task

    def keep(self, name: str, file: str, make: Callable[[], bytes]) -> None:
        """Hands on a file that the evaluator `name` offers."""
        if self._keep is not None:
            self._keep(f"{name}_{file}", make)

    def _of_features(self, output: str) -> OfBatch:
        # No evaluator's name has a space.
        return self._of_batch(f"features {output}", functools.partial(features.measure, output))

    def _of_batch(self, key: str, measure: Callable[[Apply, Batch], PyTree]) -> OfBatch:
        """What is measured of a batch, compiled once for each `key`, with what it asks for and nothing else."""
        if key not in self._compiled:

            def of_batch(variables: Variables, batch: Batch, seed: Array) -> PyTree:
                def apply(examples: Batch, names: Collection[str]) -> Mapping[str, Array]:
                    keys = example_keys(seed, examples)
                    with batch_split_like(batch_sharding(self._mesh)):
                        return self._outputs(variables, examples, frozenset(names), keys)

                return measure(apply, NotedBatch(self._on_device(batch), self._read))

            self._compiled[key] = jax.jit(of_batch, out_shardings=replicated(self._mesh))
        return self._compiled[key]

    def _batches(self, of_batch: OfBatch, variables: Variables, pipeline: EvalPipeline) -> Iterator[PyTree[np.ndarray]]:
        check_batch(self._mesh, pipeline.batch_size, None)
        rows = batch_sharding(self._mesh)
        pending = None
        for batch in pipeline.iterate(*host_rows(rows, pipeline.batch_size)):
            # One batch behind: the host decodes the next while the device works on this one.
            running = of_batch(variables, put(batch, rows), self._seed)
            if pending is not None:
                yield jax.device_get(pending)
            pending = running
        if pending is not None:
            yield jax.device_get(pending)


@dataclasses.dataclass(frozen=True)
class _EvaluationRun:
    """See `vit_jax.evaluators.EvaluationRun`; `shared` holds what an evaluator of this run has computed: features,
    samples."""

    evaluation: Evaluation
    name: str
    variables: Variables
    shared: dict[Any, Any]
    pictures: Keep | None = None

    def __call__(self, pipeline: EvalPipeline) -> Iterator[PyTree[np.ndarray]]:
        return self.evaluation.measured(self.name, self.variables, pipeline)

    def features(self, pipeline: EvalPipeline, output: str) -> Labelled:
        key = (output, pipeline.description or id(pipeline))
        if key not in self.shared:
            self.shared[key] = self.evaluation.features(output, self.variables, pipeline)
        return self.shared[key]

    def samples(
        self,
        count: int,
        seed: int = 0,
        *,
        prompts: Sequence[str] = (),
        pictures: Pictures | None = None,
        paste: bool = False,
        batch_size: int = BATCH_SIZE,
        **settings: Any,
    ) -> Samples:
        known = self.shared.setdefault("samples", {})
        return self.evaluation.samples(
            self.variables, known, count, seed, prompts, pictures, paste, batch_size, settings
        )

    def keep(self, name: str, make: Callable[[], bytes], while_training: bool = False) -> None:
        self.evaluation.keep(self.name, name, make)
        if while_training and self.pictures is not None:
            self.pictures(f"{self.name}_{name}", make)


def judging(answers: Answers, evaluators: Mapping[str, Evaluator]) -> dict[str, Evaluator]:
    """The evaluators, those of answers fitted to what a model's logits mean.

    Raises:
        UserError: where data has a class that the model does not know, which would count as errors, or worse, as hits.
    """
    fitted = {}
    for name, evaluator in evaluators.items():
        try:
            fitted[name] = evaluator.judging(answers) if hasattr(evaluator, "judging") else evaluator
        except UserError as error:
            raise UserError(f"config.evals.{name} does not fit the model: {error.what}", error.what_to_do) from None
    return fitted


def inputs_of(loaded: Loaded, config: RunConfig) -> Inputs:
    """The data of a config, prepared as a checkpoint says."""
    data = dict(config.data)
    if loaded.preprocess is not None:
        preprocess = loaded.preprocess.to_json()
        data |= {"image_size": preprocess.pop("image_size"), "preprocess": preprocess}
    data["fields"] = loaded.metadata["fields"]
    return build_inputs(data)


def evaluate_loaded(
    loaded: Loaded,
    values: Mapping[str, Any],
    cache: epath.PathLike | None = None,
    keep: Keep | None = None,
    recalibrate: int | None = None,
) -> dict[str, float]:
    """Runs the evaluators of a plain config on a loaded checkpoint, with the checkpoint's own preprocessing.

    Args:
        cache: a directory in which frozen features are kept for the next time.
        keep: takes the files that evaluators offer beside their numbers, named 'evaluator_file'; None for none.
        recalibrate: training images of the config on which running statistics are estimated anew before, see
            `vit_jax.training.recalibrate`; None for those of the checkpoint.
    """
    config = run_config(values)
    if not config.evals:
        raise UserError("The config names no evaluators", "Add one, for example --config.evals.val.name=classification")
    intervals(config)
    inputs = inputs_of(loaded, config)
    evaluators = build_evaluators(config.evals, inputs, config.batch_size)
    # The objective is that of the checkpoint, whatever config names the data.
    evaluators = judging(Answers(loaded.labels, loaded.task.objective), evaluators)
    mesh = make_mesh(config.mesh)
    everywhere = replicated(mesh)
    variables = jax.tree.map(lambda leaf: place(leaf, everywhere), loaded.variables)
    if recalibrate is not None:
        source = inputs.train_source()
        anew = recalibration(recalibrate, loaded.task, inputs, source, config.seed, "--recalibrate")
        anew.check(variables)
        variables["model_state"] = replaced(variables["model_state"], anew(variables, mesh))
    kept = None
    if cache is not None and jax.process_count() == 1:
        described = [loaded.metadata["task"], loaded.metadata["model"]]
        # Of the parameters as they lie on the host; running statistics may have been estimated anew.
        held = {**loaded.variables, "model_state": variables["model_state"]}
        kept = FeatureCache(cache, features.digest(held, described))
    evaluation = Evaluation(
        evaluators, loaded.task.outputs, inputs.on_device_eval(), mesh, cache=kept, keep=keep, seed=config.seed,
        task=loaded.task,
    )  # fmt: skip
    return evaluation.run(variables)
