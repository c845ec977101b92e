"""Accuracy of classes by how many training examples they have.

Liu et al., "Large-scale long-tailed recognition in an open world" (arXiv:1904.05160, section 5): their three groups are
those of later papers too.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

FEW, MANY = 20, 100  # training examples: below the first are few, above the second many


def shot_groups(counts: Sequence[int]) -> dict[str, Bool[np.ndarray, " K"]]:
    """Which classes are of which group, by the number of training examples of each."""
    counts = np.asarray(counts)
    return {"many": counts > MANY, "medium": (counts >= FEW) & (counts <= MANY), "few": counts < FEW}


def shot_accuracies(
    groups: Mapping[str, Bool[np.ndarray, " K"]], examples: Int[np.ndarray, " K"], correct: Int[np.ndarray, " K"]
) -> dict[str, float]:
    """The mean accuracy of a group's classes, each class counting once; NaN for one without an example.

    Args:
        examples: of each class in the test set.
        correct: how many of them were right.
    """
    found = {}
    for name, group in groups.items():
        there = group & (examples > 0)
        found[f"{name}_accuracy"] = float((correct[there] / examples[there]).mean()) if there.any() else float("nan")
    return found
