"""Alignment and uniformity of representations on the unit sphere.

Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the
hypersphere" (arXiv:2005.10242, section 4): how close the representations of two views of an image are, and how evenly
those of all images are spread. Lower is better in both; features that have collapsed are perfectly aligned, and have a
uniformity of 0.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.ranges import Positive

_BLOCK = 1024  # examples whose distances to all others are in memory at once


def unit(features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows of length 1, in float64."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def alignment(first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "N D"], alpha: float = 2.0) -> float:
    """The mean of |x - y| ** alpha over the positive pairs."""
    return float((np.linalg.norm(unit(first) - unit(second), axis=1) ** alpha).mean())


def uniformity(features: Float[np.ndarray, "N D"], t: float = 2.0) -> float:
    """The logarithm of the mean of exp(-t |x - y|^2) over all pairs of two different examples.

    Raises:
        UserError: when there is a single example.
    """
    n = len(features)
    if n < 2:
        raise UserError("Uniformity is that of several examples, and there is one", "Evaluate on more images")
    x, total = unit(features), 0.0
    for start in range(0, n, _BLOCK):
        distances = np.maximum(2 - 2 * x[start : start + _BLOCK] @ x.T, 0)
        total += np.exp(-t * distances).sum()
    # Each example is at distance 0 from itself.
    return float(np.log((total - n) / (n * (n - 1))))


@dataclasses.dataclass(frozen=True)
class AlignmentUniformity:
    """Both, over all examples; uniformity is that of the first views.

    Args:
        first, second: pipelines of the same images, each in a view of its own.
        features: a task output.
        alpha, t: see `alignment` and `uniformity`.
    """

    first: EvalPipeline = dataclasses.field(hash=False)
    second: EvalPipeline = dataclasses.field(hash=False)
    features: str
    alpha: float
    t: float

    def check(self) -> None:
        if len(self.first.source) < 2:
            raise UserError("Uniformity is that of several examples, and there is one", "Evaluate on more images")

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        (first, _), (second, _) = (run.features(pipeline, self.features) for pipeline in (self.first, self.second))
        return {"alignment": alignment(first, second, self.alpha), "uniformity": uniformity(first, self.t)}


def build(
    pipeline: PipelineFactory,
    *,
    transform: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
    features: str = "features",
    alpha: Positive = 2.0,
    t: Positive = 2.0,
) -> AlignmentUniformity:
    """On `source`, or on the config's `data.eval`, seen twice through `transform`, such as `{"name": "view"}`.

    The views are drawn from fixed seeds: every model is measured on the same pairs.
    """
    for name, value in (("alpha", alpha), ("t", t)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise UserError(f"{name} of alignment and uniformity is {value!r}", "Use a positive number, usually 2")
    if transform.get("name") == "two_views":
        raise UserError("This evaluator draws its two views itself", "Set its transform.name to 'view'")
    views = (pipeline(source=source, transform=transform, seed=seed) for seed in (0, 1))
    return AlignmentUniformity(*views, features, alpha, t)
