"""What a sweep found: its runs in order, as a table, as a CSV file and as a picture."""

import csv
import dataclasses
import io
import math
import statistics
import sys
from collections.abc import Mapping, Sequence

from etils import epath

from vit_jax.commands.report import RunLog, choose_metrics, read_run, result_table, significance_table
from vit_jax.commands.table import table
from vit_jax.errors import UserError, printable
from vit_jax.training.grid import SEED, Point
from vit_jax.training.run_files import finished

# Endings of metrics of which less is better; what measured them may stand behind in brackets.
_LOW = (
    "loss", "error", "fid", "kid", "frechet", "lpips", "perceptual", "mce", "ece", "rmse", "nll", "perplexity", "bits",
    "per_token", "per_pixel", "per_image", "per_byte", "mae", "distance", "l1", "copies", "alignment", "uniformity",
)  # fmt: skip
# By the name of an evaluator those of which more is better all the same: of a codebook in even use.
_HIGH = {"codebook": ("perplexity", "bits")}


@dataclasses.dataclass(frozen=True)
class Ranked:
    """Runs that have logged something, the best values first.

    Args:
        metric: by which.
        groups: from the name of values without a seed to their runs that count, or to all where none does.
        counted: of each, how many count and how many there are to be.
        metrics: what the table shows.
        points: of the best values.
        found: points with their logs, in the grid's order.
    """

    metric: str
    groups: Mapping[str, Sequence[RunLog]]
    counted: Mapping[str, tuple[int, int]]
    metrics: Sequence[str]
    points: Sequence[Point]
    found: Sequence[tuple[Point, RunLog]]


def ranked(folder: epath.Path, points: Sequence[Point], metric: str | None, mode: str | None) -> Ranked:
    """The runs below a folder, by the last value of a metric that each logged; the mean over seeds counts.

    A run counts that came to its end with a finite value. Values of which some seed does not count, because it
    diverged, say, come after all others: a mean over those that survived would flatter them. That is said.

    Args:
        metric: by default the first that evaluators measured.
        mode: 'max' or 'min'; by default what the metric's name says.

    Raises:
        UserError: no run has logged anything, or none the metric, or none counts.
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
    ended = {point.name for point, log in found if _counts(folder, point, log, first)}
    if not ended:
        raise UserError(f"No run in {folder} came to its end with a finite {first}", "What ended them is said above")
    groups: dict[str, list[RunLog]] = {}
    counted: dict[str, tuple[int, int]] = {}
    for point in points:
        count, of = counted.get(point.group, (0, 0))
        counted[point.group] = count + (point.name in ended), of + 1
    for point, log in found:
        if point.name in ended or not counted[point.group][0]:
            groups.setdefault(point.group, []).append(log)
    measuring = (found[0][0].config.get("evals") or {}).get(first.partition("/")[0]) or {}
    low = mode == "min" if mode else is_low(first, measuring.get("name", ""))

    def place(item: tuple[str, list[RunLog]]) -> tuple[int, float]:
        count, of = counted[item[0]]
        mean = statistics.mean(log.final(first) for log in item[1]) if count else 0.0
        return (count < of) + (not count), mean if low else -mean

    in_order = dict(sorted(groups.items(), key=place))
    best = next(iter(in_order))
    return Ranked(first, in_order, counted, metrics, [p for p in points if p.group == best], found)


def _counts(folder: epath.Path, point: Point, log: RunLog, metric: str) -> bool:
    value = log.final(metric)
    return value is not None and math.isfinite(value) and finished(folder / point.name, point.config) is not None


def is_low(metric: str, evaluator: str = "") -> bool:
    """Whether less is better, by its name and its evaluator's: 'val/loss', 'samples/kid(inception)'."""
    name = metric.partition("(")[0].rpartition("/")[2]
    return name.endswith(_LOW) and name not in _HIGH.get(evaluator, ())


def show(folder: epath.Path, best: Ranked) -> None:
    """Prints the table, and writes sweep.csv and sweep.png beside the runs."""
    from vit_jax.commands.figures import sweep_chart

    header, rows = result_table(best.groups, best.metrics)
    for row in rows:
        count, of = best.counted[row[0]]
        row[1] = str(of) if count == of else f"{count} of {of}"
    print(table(header, rows))
    for group, (count, of) in best.counted.items():
        if count < of:
            print(
                f"vit_jax: {printable(group)}: {count} of {of} runs came to their end with a finite {best.metric}, and"
                " what is incomplete comes last",
                file=sys.stderr,
            )
    those = {group: logs for group, logs in best.groups.items() if best.counted[group][0]}
    compared, differences = significance_table(those, [best.metric])
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
        counts = best.counted[point.group][0] and log in best.groups[point.group]
        if counts and across in point.values:
            value = log.final(best.metric)
            line = ", ".join(f"{key}={point.values[key]}" for key in varied if key != across)
            x = point.values[across]
            x = x if numeric(across) else str(x).replace("$", r"\$")  # which would begin a formula
            values.setdefault(line, {}).setdefault(x, []).append(value)
    lines = {}
    for label, by_x in values.items():
        points_of_line = sorted(by_x.items()) if numeric(across) else by_x.items()
        lines[label] = [(x, statistics.mean(v), min(v), max(v)) for x, v in points_of_line]
    return across, lines
