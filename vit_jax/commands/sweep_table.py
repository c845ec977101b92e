"""What a sweep found: its runs in order, as a table, as a CSV file and as a picture."""

import csv
import dataclasses
import io
import statistics
import sys
from collections.abc import Mapping, Sequence

from etils import epath

from vit_jax.commands.report import RunLog, choose_metrics, read_run, result_table, significance_table
from vit_jax.commands.table import table
from vit_jax.errors import UserError
from vit_jax.training.grid import SEED, Point

# Endings of metrics of which less is better; what measured them may stand behind in brackets.
_LOW = (
    "loss", "error", "fid", "kid", "frechet", "lpips", "perceptual", "mce", "ece", "rmse", "nll", "perplexity", "bits",
    "per_token", "per_pixel", "per_image", "mae", "distance", "l1", "copies", "alignment", "uniformity",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ranked:
    """Runs that have logged something, the best values first.

    Args:
        metric: by which.
        groups: from the name of values without a seed to their runs.
        metrics: what the table shows.
        points: of the best values.
        found: points with their logs, in the grid's order.
    """

    metric: str
    groups: Mapping[str, Sequence[RunLog]]
    metrics: Sequence[str]
    points: Sequence[Point]
    found: Sequence[tuple[Point, RunLog]]


def ranked(folder: epath.Path, points: Sequence[Point], metric: str | None, mode: str | None) -> Ranked:
    """The runs below a folder, by the last value of a metric that each logged; the mean over seeds counts.

    Args:
        metric: by default the first that evaluators measured.
        mode: 'max' or 'min'; by default what the metric's name says.

    Raises:
        UserError: no run has logged anything, or none the metric.
    """
    found = []
    for point in points:
        if (folder / point.name / "metrics.jsonl").exists():
            try:
                found.append((point, read_run(folder / point.name)))
            except UserError as error:  # it has logged nothing yet, or is damaged
                print(f"vit_jax: {error}", file=sys.stderr)
    if not found:
        raise UserError(f"No run in {folder} has logged anything", "What ended them is said above")
    logs = [log for _, log in found]
    metrics = choose_metrics(logs, [metric] if metric else None)
    first = metrics[0]
    metrics = list(dict.fromkeys([*metrics, *choose_metrics(logs, None)]))
    groups: dict[str, list[RunLog]] = {}
    for point, log in found:
        groups.setdefault(point.group, []).append(log)
    low = mode == "min" if mode else is_low(first)

    def place(item: tuple[str, list[RunLog]]) -> float:
        values = [value for log in item[1] if (value := log.final(first)) is not None]
        if not values or any(value != value for value in values):
            return float("inf")
        return statistics.mean(values) * (1 if low else -1)

    in_order = dict(sorted(groups.items(), key=place))
    best = next(iter(in_order))
    return Ranked(first, in_order, metrics, [p for p in points if p.group == best], found)


def is_low(metric: str) -> bool:
    """Whether less is better, by its name: 'val/loss', 'samples/kid(inception)'."""
    return metric.partition("(")[0].rpartition("/")[2].endswith(_LOW)


def show(folder: epath.Path, best: Ranked) -> None:
    """Prints the table, and writes sweep.csv and sweep.png beside the runs."""
    from vit_jax.commands.figures import sweep_chart

    header, rows = result_table(best.groups, best.metrics)
    print(table(header, rows))
    compared, differences = significance_table(best.groups, [best.metric])
    if differences:
        print(f"\n{table(compared, differences)}")
    text = io.StringIO()
    written = csv.writer(text, lineterminator="\n")
    keys = list(best.found[0][0].values)
    written.writerow([*keys, "step", *best.metrics])
    for point, log in best.found:
        written.writerow([*point.values.values(), log.step, *(log.final(metric) for metric in best.metrics)])
    (folder / "sweep.csv").write_text(text.getvalue())
    (folder / "sweep.png").write_bytes(sweep_chart(best.metric, *_lines(best)))
    print(
        f"\nBest by {best.metric}: {best.points[0].group}\nWritten: {folder / 'sweep.csv'} and {folder / 'sweep.png'}"
    )


def _lines(best: Ranked) -> tuple[str, dict[str, list[tuple[float | str, float, float, float]]]]:
    """What the picture shows: its horizontal axis, and lines of (x, mean, lowest, highest) by the other values."""
    points = [point for point, _ in best.found]
    varied = [key for key in points[0].values if key != SEED and len({str(p.values[key]) for p in points}) > 1]

    def numeric(key: str) -> bool:
        return key != SEED and all(
            isinstance(p.values[key], (int, float)) and not isinstance(p.values[key], bool) for p in points
        )

    across = next((key for key in varied if numeric(key)), varied[0] if varied else SEED)
    values: dict[str, dict[float | str, list[float]]] = {}
    for point, log in best.found:
        if (value := log.final(best.metric)) is not None and across in point.values:
            line = ", ".join(f"{key}={point.values[key]}" for key in varied if key != across)
            x = point.values[across]
            x = x if numeric(across) else str(x).replace("$", r"\$")  # which would begin a formula
            values.setdefault(line, {}).setdefault(x, []).append(value)
    lines = {}
    for label, by_x in values.items():
        points_of_line = sorted(by_x.items()) if numeric(across) else by_x.items()
        lines[label] = [(x, statistics.mean(v), min(v), max(v)) for x, v in points_of_line]
    return across, lines
