"""Which features lie near which: how far samples cover real images, and how real they are.

A set is taken for the union of balls, one around each of its features, that reach to its k-th nearest neighbour in the
set (Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models", arXiv:1904.06991).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Num

from vit_jax.errors import UserError

_BLOCK = 512  # rows whose distances to all others are in memory at once


@dataclasses.dataclass(frozen=True)
class Neighbourhood:
    """`precision` is the share of the samples within a ball of the real features, `recall` the share of the real ones
    within a ball of the samples. `density` counts in how many real balls a sample lies, over k, and `coverage` is the
    share of real balls that have a sample (Naeem et al., "Reliable fidelity and diversity metrics for generative
    models", arXiv:2002.09797, section 3)."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhood(real: Num[np.ndarray, "N D"], made: Num[np.ndarray, "M D"], k: int) -> Neighbourhood:
    """Compares two sets of features, in float64.

    Raises:
        UserError: for fewer than k + 1 features in one of them.
    """
    check_counts(k, {"real images": len(real), "samples": len(made)})
    real, made = _centred(real, made)
    real_reach, made_reach = _reach(real, k), _reach(made, k)
    inside, within = 0, 0
    reached, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for start in range(0, len(made), _BLOCK):
        distances = squared_distances(made[start : start + _BLOCK], real)
        balls = distances <= real_reach
        inside += int(balls.any(axis=1).sum())
        within += int(balls.sum())
        reached |= (distances <= made_reach[start : start + _BLOCK, None]).any(axis=0)
        covered |= balls.any(axis=0)
    return Neighbourhood(inside / len(made), float(reached.mean()), within / (k * len(made)), float(covered.mean()))


def check_counts(k: int, counts: Mapping[str, int]) -> None:
    """Refuses sets, by what they are, in which nothing has a k-th neighbour, with a UserError."""
    for name, count in counts.items():
        if not 1 <= k < count:
            raise UserError(f"There are {count} {name} for k={k}", "Set the evaluator's k below their number")


def nearest(queries: Num[np.ndarray, "M D"], among: Num[np.ndarray, "N D"]) -> tuple[np.ndarray, np.ndarray]:
    """Of each query the number of the nearest of `among`, and how far it is: int [M] and float64 [M]."""
    index = np.empty(len(queries), np.int64)
    # Which one it is needs less precision than how far: half the time where there are many.
    queries32, among32 = (x.astype(np.float32) for x in _centred(queries, among))
    for start in range(0, len(queries), _BLOCK):
        index[start : start + _BLOCK] = squared_distances(queries32[start : start + _BLOCK], among32).argmin(axis=1)
    apart = queries.astype(np.float64) - among[index].astype(np.float64)
    return index, np.linalg.norm(apart, axis=1)


def squared_distances(first: Float[np.ndarray, "M D"], second: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "M N"]:
    """Of each to each."""
    lengths = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1)
    return np.maximum(lengths - 2 * (first @ second.T), 0)


def _centred(*sets: Num[np.ndarray, "N D"]) -> list[Float[np.ndarray, "N D"]]:
    """Less of what all have in common, which a difference of squares would lose digits to."""
    mean = sets[0].mean(axis=0, dtype=np.float64)
    return [x.astype(np.float64) - mean for x in sets]


def _reach(features: Float[np.ndarray, "N D"], k: int) -> Float[np.ndarray, " N"]:
    """The squared distance of each to its k-th nearest neighbour, itself left out."""
    reach = np.empty(len(features))
    for start in range(0, len(features), _BLOCK):
        distances = squared_distances(features[start : start + _BLOCK], features)
        distances[np.arange(len(distances)), start + np.arange(len(distances))] = 0
        reach[start : start + _BLOCK] = np.partition(distances, k, axis=1)[:, k]
    return reach
