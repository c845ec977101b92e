"""A picture of what examples are worth to a learned prompt, beside a linear probe and prompts written by hand."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("agg")


def curves(
    titles: Mapping[str, str],
    shots: Sequence[int],
    learned: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    by_hand: Mapping[str, float],
    output: Path,
) -> None:
    """Writes a PNG with accuracies by the number of examples, a panel for each test set.

    Args:
        titles: of the test sets.
        learned: {method: {test set: accuracies of each number of shots, a list of draws}}.
        by_hand: accuracy of the best hand-written prompt on each test set, at zero shots.
    """
    figure = Figure(figsize=(4.2 * len(titles), 3.4), layout="constrained")
    axes = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    places = range(1, len(shots) + 1)
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        axis.plot([0], [100 * by_hand[name]], "*", color="black", markersize=10, label="prompt by hand")
        axis.axhline(100 * by_hand[name], color="grey", linestyle=":")
        for method, of_sets in learned.items():
            draws = [[100 * value for value in some] for some in of_sets[name]]
            means, spreads = map(statistics.mean, draws), map(statistics.pstdev, draws)
            axis.errorbar(places, list(means), list(spreads), marker="o", capsize=2, label=method)
        axis.set(title=title, xlabel="labelled pictures of each class", xticks=(0, *places))
        axis.set_xticklabels([0, *shots])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend(fontsize=8)
    figure.savefig(output, dpi=110)
