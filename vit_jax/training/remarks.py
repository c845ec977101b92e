"""What a run says before its first step: the data that it found, and values that are allowed but seldom meant. And what
its task finds strange in the metrics later."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.tasks import Task
from vit_jax.training.experiment import Experiment

_MANY_EPOCHS = 2000


def opening(experiment: Experiment) -> list[str]:
    """Lines for whoever started the run; none for an experiment without sources of its own."""
    return [*_found(experiment), *(f"remark: {text}" for text in _remarks(experiment))]


def _evaluated(experiment: Experiment) -> dict[str, EvalPipeline]:
    """The set that each evaluator goes through, for those that have one alone."""
    pipelines = {name: getattr(each, "pipeline", None) for name, each in experiment.evaluators.items()}
    return {name: each for name, each in pipelines.items() if isinstance(each, EvalPipeline)}


def _examples(experiment: Experiment) -> str:
    """What they are called; only images have a name of their own."""
    return "images" if "image" in experiment.fields else "examples"


def _found(experiment: Experiment) -> Iterator[str]:
    source = getattr(experiment.pipeline, "source", None)
    if source is None:
        return
    parts = [f"{len(source):,} training {_examples(experiment)}"]
    parts += [f"{len(each.source):,} for config.evals.{name}" for name, each in _evaluated(experiment).items()]
    if source.label_names:
        count = len(source.label_names)
        parts.insert(0, f"{count:,} class{'es' if count > 1 else ''}")
    yield ", ".join(parts)


def _remarks(experiment: Experiment) -> Iterator[str]:
    source, config = getattr(experiment.pipeline, "source", None), experiment.config
    if source is None:
        return
    sources = [source, *(each.source for each in _evaluated(experiment).values())]
    yield from dict.fromkeys(text for each in sources for text in getattr(each, "remarks", ()))
    if len(source.label_names) == 1 and any(f.name == "num_classes" for f in dataclasses.fields(experiment.task)):
        yield f"there is one class, {source.label_names[0]!r}: whatever the model learns, it is right"
    shown, total = config.batch_size / len(source), f"{len(source):,} training {_examples(experiment)}"
    if shown > 1:
        yield f"a batch of {config.batch_size:,} shows each of the {total} {shown:.3g} times"
    epochs = config.steps * config.batch_size / len(source)
    if epochs > _MANY_EPOCHS:
        yield (
            f"{config.steps:,} steps of {config.batch_size:,} show each of the {total} "
            f"{epochs:,.0f} times; config.steps.epochs counts in epochs"
        )


class RunningRemarks:
    """Says on stderr what a task remarks on the metrics of a run, each when it was not so before.

    Args:
        task: see `vit_jax.tasks.Task.remarks`.
        active: False on all processes but one.
    """

    def __init__(self, task: Task, active: bool = True):
        self._task, self._active = task, active
        self._known: set[str] = set()

    def say(self, step: int, averages: Mapping[str, float]) -> None:
        """About a line of the log.

        Args:
            averages: its metrics.
        """
        found = self._task.remarks(averages)
        for name in found.keys() - self._known:
            if self._active:
                print(f"remark: at step {step} {found[name]}", file=sys.stderr)
        self._known = set(found)
