"""How far the certainty that a classifier states is from how often it is right.

Guo et al., "On calibration of modern neural networks" (arXiv:1706.04599), section 2.
"""

import dataclasses
import io

import numpy as np
from jaxtyping import Bool, Float, Int

from vit_jax.evaluators.classification_files import csv_bytes

BINS = 15  # of the paper's tables


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Answers by their confidence, in bins of one width.

    Args:
        counts: answers in each bin.
        confidence: the sum of their probabilities.
        right: how many of them are right.
    """

    counts: Int[np.ndarray, " M"]
    confidence: Float[np.ndarray, " M"]
    right: Float[np.ndarray, " M"]

    @property
    def error(self) -> float:
        """The expected calibration error, equation 3: between the share that is right and the mean confidence, the mean
        over the answers. From 0 to 1; not a number where a confidence is none."""
        return float(np.abs(self.right - self.confidence).sum() / self.counts.sum())

    def table(self) -> bytes:
        """A row a bin, as CSV: its bounds, how many answers, their mean confidence and the share that is right."""
        edges = np.linspace(0, 1, len(self.counts) + 1)
        rows = []
        for low, high, n, said, right in zip(edges, edges[1:], self.counts, self.confidence, self.right, strict=False):
            means = [f"{said / n:.6f}", f"{right / n:.6f}"] if n else [None, None]
            rows.append([f"{low:.6f}", f"{high:.6f}", int(n), *means])
        return csv_bytes(["above", "up to", "examples", "confidence", "accuracy"], rows)

    def picture(self) -> bytes:
        """The reliability diagram, as PNG: a bar a bin, its share that is right, beside the diagonal of a model whose
        confidence is that share; below, how many answers are in each."""
        from matplotlib.figure import Figure  # half a second, which training does without

        bins = len(self.counts)
        centres = (np.arange(bins) + 0.5) / bins
        there = self.counts > 0
        right, said = (sums[there] / self.counts[there] for sums in (self.right, self.confidence))
        figure = Figure(figsize=(4.8, 5.8), layout="constrained", dpi=130)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.bar(centres[there], right, 1 / bins, color="#4c78a8", edgecolor="white", label="share right")
        above.plot(said, right, "o", color="#e45756", markersize=4, label="at the mean confidence")
        above.plot([0, 1], [0, 1], "--", color="#57606a", linewidth=1, label="calibrated")
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"Expected calibration error {self.error:.4f}")
        above.legend(fontsize=8, loc="upper left")
        below.bar(centres, self.counts / self.counts.sum(), 1 / bins, color="#9aa4ae", edgecolor="white")
        below.set(xlabel="confidence", ylabel="share of answers")
        png = io.BytesIO()
        figure.savefig(png, format="png")
        return png.getvalue()


def reliability(confidence: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"], bins: int = BINS) -> Reliability:
    """Sorts answers into bins by their confidence, each bin with its upper bound and without its lower.

    Args:
        confidence: the probability of each answer.
        right: whether it is right.
        bins: of equal width from 0 to 1.
    """
    which = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    sums = [np.bincount(which, weights.astype(np.float64), bins) for weights in (confidence, right)]
    return Reliability(np.bincount(which, minlength=bins), *sums)
