"""Whether runs differ by more than seeds, or folds of the data, make by themselves."""

import math
import statistics
from collections.abc import Mapping, Sequence

WELCH = (
    "Welch's t-test over seeds: p is the chance of a difference as large if there were none. It is not"
    " corrected for how many rows there are."
)
PAIRED = (
    "Over folds the paired t-test of Nadeau and Bengio: runs of the same fold and seed are compared, and the"
    " variance is raised for what trainings share of their examples. p is not corrected for how many rows there are."
)

# What a run measured, by its seed and by the part of the data that it left out, None without one ('2/5').
Measured = Sequence[tuple[tuple[str, str | None], float]]


def compared(a: Measured, b: Measured) -> list[str] | None:
    """How far the mean of `a` is from that of `b`, its 95% interval, and the probability of one as large if there were
    none; the last two are empty where there is no spread to compare with, and all is None where there are too few.

    Over seeds it is Welch's t-test, which lets both differ in spread (Welch, "The generalization of Student's problem",
    Biometrika 34, 1947). Trainings of k folds share most of their examples, so their results are not independent: there
    it is the corrected paired test of Nadeau and Bengio ("Inference for the generalization error", Machine Learning 52,
    2003), of the differences in each fold, whose variance counts 1 / n + 1 / (k - 1) times.
    """
    from scipy import stats

    if any(fold for (_, fold), _ in (*a, *b)):
        return _paired(dict(a), dict(b))
    x, y = [value for _, value in a], [value for _, value in b]
    if min(len(x), len(y)) < 2:
        return None
    cells = [f"{statistics.mean(x) - statistics.mean(y):+.4g}", "", ""]
    if statistics.stdev(x) + statistics.stdev(y) > 0:
        test = stats.ttest_ind(x, y, equal_var=False)
        low, high = test.confidence_interval(0.95)
        cells[1:] = [f"{low:+.2g} to {high:+.2g}", f"{test.pvalue:.2g}"]
    return cells


def _paired(a: Mapping, b: Mapping) -> list[str] | None:
    from scipy import stats

    shared = [key for key in a if key in b and key[1]]
    if len(shared) < 2:
        return None
    differences = [a[key] - b[key] for key in shared]
    mean, n = statistics.mean(differences), len(shared)
    parts = min(int(fold.partition("/")[2]) for _, fold in shared)
    error = statistics.stdev(differences) * math.sqrt(1 / n + 1 / (parts - 1))
    if not error:
        return [f"{mean:+.4g}", "", ""]
    reach = error * stats.t.ppf(0.975, n - 1)
    p = 2 * stats.t.sf(abs(mean) / error, n - 1)
    return [f"{mean:+.4g}", f"{mean - reach:+.2g} to {mean + reach:+.2g}", f"{p:.2g}"]
