"""Put runs side by side in one HTML file: curves, final metrics, what their configs differ in, and what they see.

examples:
  vit_jax report runs/a runs/b --output compare.html
  vit_jax report runs/sweep --metrics val/accuracy train/loss --images

A directory stands for itself if it is a workdir, and else for the workdirs in it. Runs whose configs differ in nothing
but the seed, or in which of k folds they leave out (config.data.fold), share a row and a curve: their mean, with the
standard deviation in the table and the range in the curves. Where there are two seeds or more, each is compared with
the runs given first by Welch's t-test; over folds by the corrected paired test of Nadeau and Bengio.
Pictures that an evaluator kept while a run trained, such as the sheets of 'samples', stand side by side.
Only the workdirs are read. --images also draws training images as each run sees them, which opens the data that the
runs' configs name: for runs whose configs you know, since the page will show what they point to.
"""

import argparse
import dataclasses
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from vit_jax.commands.output import output_file
from vit_jax.commands.significance import PAIRED, WELCH, compared
from vit_jax.errors import UserError
from vit_jax.naming import nearest

_PANELS = 8  # curves by default; --metrics asks for others
_IMAGES = 4  # a row and a column of the contact sheet
_STEPS, _WIDEST = 5, 400  # pictures of a run side by side, and pixels of each
_LAST = 5  # lines of the log whose mean stands for the end of training
_FOLD = "data.fold"
_SILENT = ("/examples", "_std", "_low", "_high")  # endings of metrics that no one compares


@dataclasses.dataclass(frozen=True)
class RunLog:
    """What a workdir says.

    Args:
        name: its path as given.
        config: as `config.json` holds it.
        settings: the config, flattened to dotted keys.
        rows: lines of `metrics.jsonl`.
    """

    name: str
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def final(self, metric: str) -> float | None:
        """The last value that was logged."""
        return next((row[metric] for row in reversed(self.rows) if metric in row), None)

    @property
    def fold(self) -> str | None:
        """The part of its data that it leaves out, as '2/5'."""
        fold = self.settings.get(_FOLD)
        return fold if isinstance(fold, str) and re.fullmatch(r"[1-9]\d{0,3}/[1-9]\d{0,3}", fold, re.ASCII) else None

    @property
    def step(self) -> int:
        return max((row["step"] for row in self.rows), default=0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="workdirs of runs, or directories of them")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="what to show, for example val/accuracy")
    parser.add_argument("--images", action="store_true", help="draw training images, opening the data of the configs")
    parser.add_argument("--output", default="report.html", metavar="FILE", help="the page (default report.html)")


def run(arguments: argparse.Namespace) -> None:
    output = output_file(arguments.output)
    runs = [read_run(path) for given in arguments.workdirs for path in find_runs(given)]
    runs = list({run.name: run for run in runs}.values())
    metrics = choose_metrics(runs, arguments.metrics)
    groups = group_runs(runs)
    output.write_text(build_page(groups, metrics, arguments.images), encoding="utf-8")

    from vit_jax.commands.table import table

    header, rows = result_table(groups, metrics)
    significance, differences = significance_table(groups, metrics)
    more = f"{table(significance, differences)}\n\n" if differences else ""
    print(f"{table(header, rows)}\n\n{more}Report: {output}")


def find_runs(given: str) -> list[epath.Path]:
    """A workdir itself, or the workdirs directly below a directory.

    Raises:
        UserError: when there are none.
    """
    path = epath.Path(given)
    if not path.is_dir():
        raise UserError(f"There is no directory {given}", "Give workdirs of runs")
    found = [p for p in (path, *sorted(path.iterdir())) if (p / "config.json").exists()]
    if not found:
        raise UserError(f"{given} is not a workdir and holds none", "Give a directory that 'vit_jax train' wrote")
    return found[:1] if found[0] == path else found


def read_run(path: epath.Path) -> RunLog:
    """Reads config and metrics.

    Raises:
        UserError: for a damaged config, or a run that has logged nothing yet.
    """
    from vit_jax.training.config import flatten
    from vit_jax.training.run_files import read_config, read_metrics

    config = read_config(path)
    rows = read_metrics(path) if (path / "metrics.jsonl").exists() else []
    if not rows:
        raise UserError(f"The run in {path} has logged nothing yet", "Leave it out, or wait")
    return RunLog(str(path), config, flatten(config), rows)


def choose_metrics(runs: Sequence[RunLog], wanted: Sequence[str] | None) -> list[str]:
    """The metrics that were asked for, or the training loss and what evaluators measured.

    Raises:
        UserError: for a metric that no run has logged.
    """
    known = list(dict.fromkeys(key for run in runs for row in run.rows for key in row if key != "step"))
    for name in wanted or ():
        if name not in known:
            raise UserError(f"No run has logged '{name}'", nearest(name, known))
    if wanted:
        return list(dict.fromkeys(wanted))
    measured = [k for k in known if "/" in k and not k.startswith("train/") and not k.endswith(_SILENT)]
    # Accuracies first: they are what runs are compared by.
    measured.sort(key=lambda name: not name.endswith("/accuracy"))
    return [*measured, *(k for k in ("train/loss",) if k in known)][:_PANELS] or known[:_PANELS]


def group_runs(runs: Sequence[RunLog]) -> dict[str, list[RunLog]]:
    """Runs by label; those that differ in nothing but the seed, or in which of k folds they leave out, share one."""
    by_config: dict[str, list[RunLog]] = {}
    for log in runs:
        settings = {key: value for key, value in log.settings.items() if key != "seed"}
        settings |= {_FOLD: log.fold.partition("/")[2]} if log.fold else {}
        by_config.setdefault(json.dumps(settings, sort_keys=True), []).append(log)
    groups = {}
    for i, group in enumerate(by_config.values(), 1):
        first = Path(group[0].name).name or group[0].name
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        groups[f"{i}: {first}{more}"] = group  # the number keeps labels apart
    return groups


def result_table(groups: Mapping[str, Sequence[RunLog]], metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Final metrics, a row a group."""
    rows = []
    for label, group in groups.items():
        steps = sorted({log.step for log in group})
        cells = [label, str(len(group)), "–".join(str(s) for s in {steps[0]: 0, steps[-1]: 0})]
        for metric in metrics:
            values = [v for log in group if (v := log.final(metric)) is not None]
            if not values:
                cells.append("")
                continue
            spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4g}{spread}")
        rows.append(cells)
    return ["run", repeated(groups), "step", *metrics], rows


def repeated(groups: Mapping[str, Sequence[RunLog]]) -> str:
    """In what the runs of a group differ."""
    logs = [log for group in groups.values() for log in group]
    if not any(log.fold for log in logs):
        return "seeds"
    again = any(len({log.settings.get("seed") for log in group}) > 1 for group in groups.values())
    return "seeds and folds" if again else "folds"


def difference_table(groups: Mapping[str, Sequence[RunLog]]) -> tuple[list[str], list[list[str]]]:
    """The settings that are not the same for all groups, a row a setting."""
    configs = [group[0].settings for group in groups.values()]
    folds = {_FOLD} if all(group[0].fold for group in groups.values()) else set()
    keys = sorted({key for config in configs for key in config} - {"seed"} - folds)
    rows = []
    for key in keys:
        cells = [json.dumps(config[key], ensure_ascii=False) if key in config else "" for config in configs]
        if len(set(cells)) > 1:
            rows.append([key, *cells])
    return ["setting", *groups], rows


def significance_table(
    groups: Mapping[str, Sequence[RunLog]], metrics: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """How far each group's mean is from the first one's, and whether seeds or folds alone would do that: a row for each
    metric and group, where both have two runs or more. See `vit_jax.commands.significance`."""
    first, *others = groups
    rows = []
    for metric in metrics:
        for label in others:
            cells = compared(
                *(
                    [
                        ((str(log.settings.get("seed")), log.fold), v)
                        for log in groups[of]
                        if (v := log.final(metric)) is not None
                    ]
                    for of in (label, first)
                )
            )
            rows += [[metric, label, *cells]] if cells else []
    return ["metric", "run", f"difference from {first}", "95% interval", "p"], rows


def curve(group: Sequence[RunLog], metric: str) -> list[tuple[int, float, float, float]]:
    """(step, mean, lowest, highest) over the runs of a group that have logged the step."""
    values: dict[int, list[float]] = {}
    for log in group:
        for row in log.rows:
            if metric in row:
                values.setdefault(row["step"], []).append(row[metric])
    return [(step, statistics.mean(v), min(v), max(v)) for step, v in sorted(values.items())]


def build_page(groups: Mapping[str, Sequence[RunLog]], metrics: Sequence[str], images: bool = False) -> str:
    """The whole document.

    Args:
        images: with training images of each group, from wherever its config says.
    """
    from vit_jax.commands import figures, page

    several, what = any(len(group) > 1 for group in groups.values()), repeated(groups)
    panels = {
        metric: {label: points for label, group in groups.items() if (points := curve(group, metric))}
        for metric in metrics
    }
    parts = [page.wide(page.html_table(*result_table(groups, metrics)))]
    parts.append(page.paragraph(
        "The last value that each run logged." + (f" Mean and standard deviation over {what}." if several else "")
    ))  # fmt: skip
    header, rows = significance_table(groups, metrics)
    if rows:
        parts.append(page.heading(f"More than the {what} make?"))
        parts.append(page.wide(page.html_table(header, rows)))
        parts.append(page.paragraph(WELCH if what == "seeds" else PAIRED))
    caption = "Shaded: from the lowest to the highest run." if several else ""
    parts += [page.heading("Curves"), page.figure(figures.run_curves(panels), caption)]
    header, rows = difference_table(groups)
    parts.append(page.heading("What differs"))
    parts.append(page.wide(page.html_table(header, rows)) if rows else page.paragraph(f"Nothing but the {what}."))
    parts += _by_tenths(groups)
    if sheets := _sheets(groups):
        parts += [page.heading("What they draw"), *sheets]
    if images:
        parts += [page.heading("What they see"), *_views(groups)]
    parts.append(page.heading("Runs"))
    folds = what != "seeds"
    names = [
        [label, str(log.settings.get("seed", "")), *([log.fold or ""] if folds else []), log.name]
        for label, group in groups.items()
        for log in group
    ]
    parts.append(page.wide(page.html_table(["run", "seed", *(["fold"] if folds else []), "workdir"], names)))
    return page.page("vit_jax report", parts)


def tenths(groups: Mapping[str, Sequence[RunLog]]) -> dict[str, list[float]]:
    """Of the diffusions among groups the loss by tenths of the steps, a mean over what each run logged last."""
    found = {}
    for label, group in groups.items():
        values = []
        for name in (f"train/simple_t{i}" for i in range(10)):
            logged = [value for log in group for value in [row[name] for row in log.rows if name in row][-_LAST:]]
            values += [statistics.mean(logged)] if logged else []
        if len(values) == 10:
            found[label] = values
    return found


def _by_tenths(groups: Mapping[str, Sequence[RunLog]]) -> list[str]:
    from vit_jax.commands import figures, page
    from vit_jax.inspection.diffusion_figures import tenths_figure

    if not (lines := tenths(groups)):
        return []
    caption = (
        "The squared error of what the network predicts, by how much noise there is, a mean over the last "
        f"{_LAST} lines of the log: noise is hard to see where there is little of it."
    )
    return [page.heading("Loss by t"), page.figure(figures.png(tenths_figure(lines)), caption)]


def _sheets(groups: Mapping[str, Sequence[RunLog]]) -> list[str]:
    """Pictures that evaluators kept while a run trained, of some of its steps from the first to the last; of several
    seeds those of the first."""
    from vit_jax.commands import page
    from vit_jax.training.kept import kept_in

    parts = []
    for label, group in groups.items():
        for name, kept in kept_in(epath.Path(group[0].name)).items():
            count = min(_STEPS, len(kept))
            some = [kept[i * (len(kept) - 1) // max(count - 1, 1)] for i in range(count)]
            if (picture := _strip(some)) is not None:
                steps = ", ".join(str(step) for step, _ in some)
                parts.append(page.figure(picture, f"{label}: {name.replace('_', ' ')} at step {steps}."))
    return parts


def _strip(kept: Sequence[tuple[int, epath.Path]]) -> bytes | None:
    """Pictures side by side, each with its step above; None for files that are none."""
    import cv2

    from vit_jax.data import drawing
    from vit_jax.data.decode import decode

    shown = []
    for step, path in kept:
        try:
            picture = decode(path.read_bytes())
        except UserError:
            return None
        scale = min(1, _WIDEST / max(picture.shape[:2]))
        if scale < 1:
            size = tuple(max(1, round(scale * side)) for side in picture.shape[1::-1])
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        shown.append(drawing.titled(picture, f"step {step}"))
    return drawing.image_png(drawing.beside(shown))


def _views(groups: Mapping[str, Sequence[RunLog]]) -> list[str]:
    """Training images as each group of runs sees them; groups that see the same share a picture."""
    from vit_jax.commands import page
    from vit_jax.commands.contact_sheet import sheet

    sharing: dict[str, list[str]] = {}
    for label, group in groups.items():
        seen = {key: value for key, value in group[0].settings.items() if key.startswith("data.")}
        sharing.setdefault(json.dumps(seen, sort_keys=True), []).append(label)
    parts = []
    for labels in sharing.values():
        who = ", ".join(labels)
        try:
            data, _, together = sheet(groups[labels[0]][0].config, _IMAGES, _IMAGES)
        except UserError as error:
            parts.append(page.paragraph(f"{who}: the training images cannot be drawn here. {error}"))
            continue
        views = "random views" if together == 1 else f"times the {together} views that the loss compares"
        parts.append(page.figure(data, f"{who}: left the image as in evaluation, then {views} of it, as in training."))
    return parts
