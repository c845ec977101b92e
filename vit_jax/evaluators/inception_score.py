"""The inception score of images, with the answers of a judge in the place of Inception's."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from vit_jax.errors import UserError
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.judge import judge
from vit_jax.evaluators.pictures import Of, OfPictures, asked
from vit_jax.ranges import Count, Natural


def inception_score(logits: Float[np.ndarray, "N K"], splits: int) -> tuple[float, float]:
    """The exponential of the mean KL divergence of p(class | image) from the mean of these: mean and deviation over
    parts of the images. From 1 to K.

    Salimans et al., "Improved techniques for training GANs" (arXiv:1606.03498, section 4). It needs no real images, and
    does not see whether those of one class differ.

    Raises:
        UserError: for fewer images than splits.
    """
    check_splits(len(logits), splits)
    logits = logits.astype(np.float64)
    logs = logits - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    scores = []
    for part in np.array_split(logs, splits):
        shares = np.exp(part)
        # A class that nothing is, however far its logits are below the others, adds nothing.
        marginal = np.log(np.maximum(shares.mean(axis=0), np.finfo(np.float64).tiny))
        scores.append(np.exp((shares * (part - marginal)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def check_splits(images: int, splits: int) -> None:
    """Refuses fewer images than splits with a UserError."""
    if not 1 <= splits <= images:
        raise UserError(f"There are {images} images for {splits} splits", "Set the evaluator's splits within them")


@dataclasses.dataclass(frozen=True)
class InceptionScore(OfPictures):
    """`score(judge@sha)` of the images, `std` over splits, and `real` of the real ones. See `OfPictures` for the other
    arguments.

    Args:
        judge: path of a classifier.
        splits: parts of the images, see `inception_score`.
    """

    judge: str
    splits: int

    def check(self) -> None:
        judge(self.judge)
        check_splits(min(self.number, len(self.real.source)), self.splits)

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        by = judge(self.judge)
        mean, deviation = inception_score(by.images(self.pictures(run).made, "logits"), self.splits)
        real, _ = inception_score(by.pipeline(self.real, "logits"), self.splits)
        return {f"score({by.name})": mean, "std": deviation, "real": real}


def build(
    pipeline: PipelineFactory,
    *,
    judge: str,
    source: Mapping[str, Any] | None = None,
    of: Of = "samples",
    count: Count = 2000,
    seed: Natural = 0,
    settings: Mapping[str, Any] | None = None,
    splits: Count = 10,
) -> InceptionScore:
    """Beside the real images of `source`, or of the config's `data.eval`."""
    return InceptionScore(**asked(pipeline, source, of, count, seed, settings), judge=judge, splits=splits)
