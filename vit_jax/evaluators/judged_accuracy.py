"""Whether a classifier sees in images the classes that they were asked to be."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, EvaluationRun, PipelineFactory
from vit_jax.evaluators.judge import judge
from vit_jax.evaluators.pictures import Of, OfPictures, asked
from vit_jax.ranges import Count, Natural


@dataclasses.dataclass(frozen=True)
class JudgedAccuracy(OfPictures):
    """`accuracy(judge@sha)`: the share of the images in which the judge sees the class that was asked for, or of a
    reconstruction the class of the image; `real`, the share of the real images that it sees right. It says nothing of
    how different the images of a class are. See `OfPictures` for the other arguments.

    Args:
        judge: path of a classifier that knows all classes by the same names.
        classes: of the labels, in their order; those of the model.
    """

    judge: str
    classes: tuple[str, ...] = ()

    def judging(self, answers: Answers) -> "JudgedAccuracy":
        classes = answers.label_names or self.real.source.label_names
        return dataclasses.replace(self, classes=tuple(classes), real=self.real.with_classes(judge(self.judge).labels))

    def check(self) -> None:
        self._positions()

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        by, pictures = judge(self.judge), self.pictures(run)
        if "label" not in pictures.conditions:
            raise UserError("The images were not asked to be of a class", "Judge those of a generator of classes")
        labels = pictures.conditions["label"]
        if pictures.original is None:  # those of real images count the judge's classes already
            labels = self._positions()[labels]
        right = by.images(pictures.made, "logits").argmax(axis=1) == labels
        with self.real.iterate() as batches:
            real = np.concatenate([batch["label"][batch["valid"] > 0] for batch in batches])
        seen = by.pipeline(self.real, "logits").argmax(axis=1)
        return {f"accuracy({by.name})": right.mean(), "real": (seen == real).mean()}

    def _positions(self) -> Int[np.ndarray, " K"]:
        """Of each class its number for the judge; the null class is none of them."""
        known = judge(self.judge).labels
        for name in self.classes:
            if name not in known:
                raise UserError(f"The judge knows no class {name!r}", "Use a judge that was trained on these classes")
        return np.array([*(known.index(name) for name in self.classes), -1])


def build(
    pipeline: PipelineFactory,
    *,
    judge: str,
    source: Mapping[str, Any] | None = None,
    of: Of = "samples",
    count: Count = 2000,
    seed: Natural = 0,
    settings: Mapping[str, Any] | None = None,
) -> JudgedAccuracy:
    """Beside the real images of `source`, or of the config's `data.eval`."""
    return JudgedAccuracy(**asked(pipeline, source, of, count, seed, settings), judge=judge)
