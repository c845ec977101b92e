"""How far figures would move with other examples of the same kind: percentile intervals of the bootstrap.

Efron, "Bootstrap methods: another look at the jackknife" (Annals of Statistics 7, 1979); scipy's `stats.bootstrap` with
method='percentile' gives the same.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int

LEVEL = 0.95
LOW, HIGH = "_low", "_high"


def with_intervals(
    statistic: Callable[[Int[np.ndarray, " N"]], Mapping[str, float]], count: int, resamples: int, seed: int = 0
) -> dict[str, float]:
    """The statistics of all examples, each with the bounds of its 95% interval behind it: NAME, NAME_low, NAME_high.

    The bounds are the quantiles 0.025 and 0.975 of the statistic over resamples, each of as many examples as there are,
    drawn with replacement. They say what the choice of examples does, and nothing of what other seeds of training do.

    Args:
        statistic: of the examples with these numbers, some of them several times; NaN where these do not have it.
        count: of the examples.
        resamples: 0 for the statistics alone.
    """
    found = dict(statistic(np.arange(count)))
    if not resamples:
        return found
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(resamples):
        for name, value in statistic(rng.integers(0, count, count)).items():
            drawn[name].append(value)
    shown = {}
    for name, value in found.items():
        # What all examples have and a resample has not, such as a class, is left out of that resample.
        quantiles = np.quantile if np.isnan(value) else np.nanquantile
        low, high = quantiles(drawn[name], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        shown |= {name: value, f"{name}{LOW}": low, f"{name}{HIGH}": high}
    return shown
