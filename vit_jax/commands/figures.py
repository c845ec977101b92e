"""Figures as PNG bytes, drawn without a display."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from vit_jax.inspection.arrays import position_similarity
from vit_jax.inspection.figures import similarity_figure

# Two hues that stay apart for colour-blind readers (Okabe and Ito), and more of the same set.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def curves(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> bytes:
    """Learning curves: panel title -> line label -> (step, value) points."""
    drawing = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained", dpi=110)
    for axes, (title, lines) in zip(drawing.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for colour, (label, points) in zip(_COLOURS, lines.items(), strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="o", markersize=3)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return png(drawing)


def run_curves(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float, float, float]]]]) -> bytes:
    """Curves of several runs, two panels a row: title -> line label -> (step, mean, lowest, highest) points.

    All panels share one legend, and a label has the same colour in all of them.
    """
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    styles = dict(zip(labels, itertools.cycle(itertools.product(("-", "--", ":"), _COLOURS)), strict=False))
    rows = math.ceil(len(panels) / 2)
    legend_rows = math.ceil(len(labels) / 2)
    drawing = Figure(figsize=(9.2, 3.0 * rows + 0.25 * legend_rows), layout="constrained", dpi=110)
    grid = drawing.subplots(rows, min(2, len(panels)), squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    handles = {}
    for axes, (title, lines) in zip(grid, panels.items(), strict=False):
        for label, points in lines.items():
            (line, colour), (steps, means, lows, highs) = styles[label], zip(*points, strict=True)
            marker = "o" if len(points) < 30 else None
            # The dollar sign would begin a formula.
            (handles[label],) = axes.plot(
                steps, means, line, color=colour, label=label.replace("$", r"\$"), marker=marker, markersize=3
            )
            if lows != highs:
                axes.fill_between(steps, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.set(title=title.replace("$", r"\$"), xlabel="step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    drawing.legend(handles=list(handles.values()), loc="outside lower center", ncols=2, frameon=False)
    return png(drawing)


def power_laws(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], xlabel: str) -> bytes:
    """Curves on logarithmic axes, on which a power of `xlabel` is a straight line: title -> label -> (x, y) points."""
    drawing = Figure(figsize=(4.0 * len(panels), 4.0), layout="constrained", dpi=110)
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    styles = dict(zip(labels, itertools.cycle(itertools.product(("-", "--"), _COLOURS)), strict=False))
    handles = {}
    for axes, (title, lines) in zip(drawing.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for label, points in lines.items():
            (line, colour), (xs, ys) = styles[label], zip(*points, strict=True)
            (handles[label],) = axes.plot(xs, ys, line, color=colour, label=label, marker="o", markersize=3)
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axes.set(title=title, xlabel=xlabel, xscale="log", yscale="log", xticks=ticks)
        axes.set_xticklabels([f"{tick:,.0f}" for tick in ticks], fontsize=8)
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    drawing.legend(handles=list(handles.values()), loc="outside lower center", ncols=6, frameon=False)
    return png(drawing)


def sweep_chart(
    metric: str, across: str, lines: Mapping[str, Sequence[tuple[float | str, float, float, float]]]
) -> bytes:
    """What a metric was at the values of a sweep: line label -> (value, mean, lowest, highest) over seeds.

    Values that are numbers over a decade or more have a logarithmic axis.
    """
    drawing = Figure(figsize=(5.2, 3.6), layout="constrained", dpi=110)
    axes = drawing.subplots()
    styles = itertools.cycle(itertools.product(("-", "--", ":"), _COLOURS))
    for (style, colour), (label, points) in zip(styles, lines.items(), strict=False):
        xs, means, lows, highs = zip(*points, strict=True)
        errors = np.abs(np.array([lows, highs]) - means)
        style = "none" if isinstance(xs[0], str) else style  # between names there is nothing
        axes.errorbar(
            xs,
            means,
            errors,
            linestyle=style,
            color=colour,
            marker="o",
            markersize=4,
            capsize=3,
            label=label.replace("$", r"\$"),
        )
    values = sorted({x for points in lines.values() for x, *_ in points}, key=str)
    if values and all(isinstance(x, (int, float)) and x > 0 for x in values) and max(values) >= 9 * min(values):
        axes.set_xscale("log")
        axes.set_xticks(sorted(values), [f"{x:g}" for x in sorted(values)])
        axes.minorticks_off()
    axes.set(xlabel=across, ylabel=metric.replace("$", r"\$"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        drawing.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return png(drawing)


def shots_chart(rows: Mapping[str, Mapping[int, tuple[float, float]]]) -> bytes:
    """Few-shot accuracy: label -> shots -> (mean, standard deviation)."""
    drawing = Figure(figsize=(5, 3.2), layout="constrained", dpi=110)
    axes = drawing.subplots()
    for colour, (label, by_shots) in zip(_COLOURS, rows.items(), strict=False):
        means, deviations = (np.array(v) for v in zip(*by_shots.values(), strict=True))
        axes.errorbar(list(by_shots), means, deviations, color=colour, label=label, marker="o", capsize=3)
    shots = list(next(iter(rows.values())))
    axes.set(xscale="log", xlabel="labelled examples per class", ylabel="accuracy", xticks=shots)
    axes.set_xticklabels([str(s) for s in shots])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return png(drawing)


def posemb_similarity(tables: Mapping[str, Float[np.ndarray, "gh gw D"]]) -> bytes:
    """Cosine similarity of each position's embedding to all others (ViT, Figure 7, centre), a panel a table."""
    similarities = {
        f"{title}: {table.shape[0]}x{table.shape[1]} positions, width {table.shape[2]}": position_similarity(table)
        for title, table in tables.items()
    }
    return png(similarity_figure(similarities))


def contact_sheet(
    rows: Sequence[tuple[str, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "n h w 3"]]],
    together: int = 1,
    legend: Mapping[str, tuple[int, int, int]] | None = None,
) -> bytes:
    """A row for each image: its label, the image itself, a gap, and its views, so many `together` under one title.

    Below stands what the colours mean that are drawn on the images, where `legend` says it.
    """
    columns = 2 + len(rows[0][2])
    aspect = rows[0][1].shape[0] / rows[0][1].shape[1]
    across = max(1, columns * 2 // 3)  # names of colours in a line
    below = 0.25 * math.ceil(len(legend or ()) / across)
    size = (1.1 * columns + 0.8, 1.1 * aspect * len(rows) + 0.3 + below)
    drawing = Figure(figsize=size, layout="constrained", dpi=110)
    widths = [1, 0.1] + [1] * (columns - 2)
    grid = drawing.subplots(len(rows), columns, squeeze=False, width_ratios=widths)
    for line, (label, image, views) in zip(grid, rows, strict=True):
        for axes, pixels in zip(line, [image, None, *views], strict=True):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if pixels is not None:
                axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 64 else "antialiased")
        # No mathematics in names: a dollar sign is a dollar sign.
        short = label if len(label) <= 24 else label[:23] + "…"
        line[0].set_ylabel(short, rotation=0, ha="right", va="center", fontsize=8, parse_math=False)
    grid[0][0].set_title("as is", fontsize=8)
    if together == 1:
        grid[0][2].set_title("in training", fontsize=8, loc="left")
    for i in range(columns - 2) if together > 1 else ():
        grid[0][2 + i].set_title(f"{i // together + 1}, view {i % together + 1}", fontsize=8)
    if legend:
        patches = [Patch(color=np.array(tint) / 255, label=name.replace("$", r"\$")) for name, tint in legend.items()]
        drawing.legend(handles=patches, loc="outside lower center", ncols=across, frameon=False, fontsize=8)
    return png(drawing)


def png(drawing: Figure) -> bytes:
    """A figure as a file's bytes, without empty borders."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()
