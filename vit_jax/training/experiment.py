"""From a config to everything that the loop needs."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from vit_jax.data.fields import Fields
from vit_jax.data.order import class_counts
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, Evaluator
from vit_jax.naming import build_named, construct
from vit_jax.tasks import DataInfo, Task
from vit_jax.training.adapted import with_adapters
from vit_jax.training.config import RunConfig, plain, run_config
from vit_jax.training.evaluation import build_evaluators, judging
from vit_jax.training.inputs import build_inputs
from vit_jax.training.precompute import Planned, Precompute, planned
from vit_jax.training.recalibrate import Recalibration, recalibration
from vit_jax.training.revision import revision
from vit_jax.training.step import OnDevice
from vit_jax.training.trackers import Tracker, build_trackers


class Pipeline(Protocol):
    """Batches by step, see `vit_jax.data.pipeline.TrainPipeline`."""

    def batch(self, step: int, slices: int = 1, index: int = 0) -> dict[str, np.ndarray]: ...

    def iterate(self, start_step: int, slices: int = 1, index: int = 0) -> Iterator[dict[str, np.ndarray]]: ...


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What one run consists of; a task outside of vit_jax builds it by hand and hands it to the same loop.

    Args:
        config: the run's settings, with durations in steps.
        values: the same as plain values, as they are stored.
        task: the objective.
        pipeline: training batches.
        on_device: runs on the device on whole batches before the loss: normalising and mixing.
        on_device_eval: the same for evaluation, without randomness.
        evaluators: by the name under which they log.
        metadata: what a checkpoint must carry beside config and model: what rebuilds the task, fields, preprocessing,
            labels, image size.
        fields: what an example has.
        precompute: plans what is computed once, from the arguments of `vit_jax.training.precompute.planned` that are
            known later; None where nothing is.
        recalibration: estimates the product's running statistics after the last step; None for those of training.
        trackers: services that get the lines of the log, by name.
    """

    config: RunConfig
    values: Mapping[str, Any]
    task: Task
    pipeline: Pipeline
    on_device: OnDevice = lambda batch, rng: batch
    on_device_eval: Any = lambda batch: batch
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"preprocess": None, "labels": [], "image_size": None}
    )
    fields: Fields = dataclasses.field(default_factory=lambda: Fields({}))
    precompute: Callable[..., Planned] | None = None
    recalibration: Recalibration | None = None
    trackers: Mapping[str, Tracker] = dataclasses.field(default_factory=dict)


def build_experiment(values: Mapping[str, Any]) -> Experiment:
    """Builds and checks every part of a plain config; touches no device and no workdir."""
    config = run_config(values)
    inputs = build_inputs(config.data)
    source = inputs.train_source()
    config = config.in_steps(len(source))
    names, counts = tuple(source.label_names), functools.partial(class_counts, source)
    data = DataInfo(inputs.image_size, names, inputs.kinds(names), counts)
    task = build_named("task", config.task, "config.task", model=config.model, data=data)
    task = with_adapters(task, config.lora)
    answers = Answers(data.label_names, task.objective)
    evaluators = judging(answers, build_evaluators(config.evals, inputs, config.batch_size))
    on_device = inputs.on_device(len(data.label_names))
    if inputs.mixing.mixes_labels and not task.mixed_labels:
        raise UserError(
            f"The task '{config.task['name']}' has no labels that mixup or cutmix could mix",
            "Remove mixup and cutmix from config.data.mix",
        )
    inputs.mixing.check_apart(config.batch_size, inputs.repeats)
    precompute = None
    if config.precompute is not None:
        precompute = functools.partial(
            planned,
            construct(Precompute, config.precompute, "config.precompute"),
            task,
            on_device_eval=inputs.on_device_eval(),
            whole=inputs.in_order(source, config.batch_size),
            pipeline=lambda stored, fields: inputs.train_pipeline(stored, config.batch_size, config.seed, fields),
            fields=data.fields,
        )
    recalibrate = None
    if config.recalibrate is not None:
        recalibrate = recalibration(config.recalibrate, task, inputs, source, config.seed, "config.recalibrate")
    own = {key: value for key, value in config.task.items() if key != "name"}
    return Experiment(
        config=config,
        values=values,
        task=task,
        pipeline=inputs.train_pipeline(source, config.batch_size, config.seed),
        on_device=on_device,
        on_device_eval=inputs.on_device_eval(),
        evaluators=evaluators,
        fields=data.fields,
        precompute=precompute,
        recalibration=recalibrate,
        trackers=build_trackers(config.trackers),
        metadata={
            "commit": revision(),
            "preprocess": inputs.preprocessing and inputs.preprocessing.to_json(),
            "labels": list(data.label_names),
            "image_size": data.image_size and list(data.image_size),
            "fields": data.fields.to_json(),
            "task": {"name": config.task["name"], "kwargs": plain({"model": config.model, **own})},
        },
    )
