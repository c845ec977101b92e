"""What a checkpoint is worth: one file per measurement, each seeing a task only through its named outputs."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Array, Float32, Int, PyTree

from vit_jax.checkpoints.given_pictures import Pictures
from vit_jax.checkpoints.sampling import BATCH_SIZE, Samples
from vit_jax.data.pipeline import EvalPipeline

# Makes a pipeline for an evaluator from optional `source` and `transform` sections and a seed.
PipelineFactory = Callable[..., EvalPipeline]

# What a task gives for a batch, by name: `apply(batch, ("logits",))["logits"]`.
Apply = Callable[[Mapping[str, Array], Collection[str]], Mapping[str, Array]]

# Takes the name of a file and what makes its bytes, which is called only if files are asked for.
Keep = Callable[[str, Callable[[], bytes]], None]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model's logits mean.

    Args:
        label_names: its classes, in the order of the logits.
        objective: 'softmax' or 'sigmoid', the loss that it was trained with.
    """

    label_names: tuple[str, ...]
    objective: str = "softmax"


class EvaluationRun(Protocol):
    """One evaluation of one model, as an evaluator sees it."""

    def __call__(self, pipeline: EvalPipeline) -> Iterator[PyTree[np.ndarray]]:
        """What the evaluator's `measure` kept of each batch, on the host."""
        ...

    def features(self, pipeline: EvalPipeline, output: str) -> tuple[Float32[np.ndarray, "N D"], Int[np.ndarray, " N"]]:
        """A task output (or "pixels") of all examples, and their labels: computed once, however many ask for it."""
        ...

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
        """The first `count` images that the task draws, see `vit_jax.checkpoints.sampling.sample`: computed once,
        however many ask for them, and of more than another has asked for only the others. Those of pictures are
        computed each time.

        Args:
            settings: of the task's `sampling`; the others as the paper has them.
        """
        ...

    def keep(self, name: str, make: Callable[[], bytes], while_training: bool = False) -> None:
        """Offers a file beside the numbers, such as a table or a picture: `make` is called only if they are wanted, and
        not in every process.

        Args:
            while_training: whether a run is to keep it too, a picture for each step at which it evaluates.
        """
        ...


class Evaluator(Protocol):
    """A frozen dataclass made by the `build(pipeline, **kwargs)` of its module, with `pipeline` a PipelineFactory.

    One that judges what a model answers has `judging(answers: Answers) -> Evaluator`, which returns it fitted to the
    model's classes and loss, and raises a UserError where they do not go together.

    One that calls `run(pipeline)` also has `measure(apply, batch) -> PyTree`: what is kept of a batch. It is traced
    together with what it asks the task for, as often as it needs, by `apply(batch, names)`: nothing else is computed.

    One that calls `run.features` says by `features` what it will ask for, so that a run finds out before training what
    the task lacks: the output's name, or names by the evaluator's pipelines where they differ.

    One that calls `run.samples` says by `sampling` (a mapping) with which settings it will, so that a task that cannot
    be sampled so is found before training; None for one that does not call it after all. One that gives it pictures
    says by `gives` the names of these.

    One that can tell before any training that it would fail (a neighbourhood larger than its set) has `check()`, which
    raises the UserError.
    """

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        """The numbers."""
        ...
