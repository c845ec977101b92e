"""Pictures of diffusion as matplotlib figures made without pyplot: rows of images, schedules, what steps are worth."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vit_jax.inspection.figures import enlarge, overlay

_DPI = 110
# Okabe and Ito's hues, which stay apart for colour-blind readers.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def rows_figure(
    rows: Mapping[str, UInt8[np.ndarray, "n H W 3"]], titles: Sequence[str] = (), notes: Mapping[str, str] | None = None
) -> Figure:
    """A row of images for each label.

    Args:
        titles: above the columns.
        notes: sentences below a row, by its label.
    """
    notes = notes or {}
    columns = max(len(images) for images in rows.values())
    height, width = next(iter(rows.values())).shape[1:3]
    side, label = 0.85, 0.12 + 0.085 * max(len(line) for name in rows for line in name.split("\n"))
    across = label + side * columns
    wide = max(30, int(across / 0.072))  # letters of a line
    written = {name: textwrap.wrap(notes[name], wide) for name in rows if name in notes}
    below = {name: 0.05 + 0.155 * len(written.get(name, ())) for name in rows}
    above = 0.24 if titles else 0.05
    tall = side * height / width
    whole = above + sum(tall + below[name] for name in rows)
    figure = Figure(figsize=(across, whole), dpi=_DPI)
    top = whole - above
    for name, images in rows.items():
        for i, image in enumerate(images):
            place = ((label + side * i) / across, (top - tall) / whole, 0.97 * side / across, 0.97 * tall / whole)
            axes: Axes = figure.add_axes(place)
            axes.imshow(enlarge(image), interpolation="antialiased")
            axes.set_axis_off()
            if titles and top == whole - above and i < len(titles):
                axes.set_title(titles[i], fontsize=8, pad=3).set_parse_math(False)
        figure.text(
            (label - 0.08) / across, (top - tall / 2) / whole, name, ha="right", va="center", fontsize=8.5,
            parse_math=False,
        )  # fmt: skip
        if name in written:
            style = {"ha": "left", "va": "top", "fontsize": 7.5, "color": "0.3", "parse_math": False}
            figure.text(0.08 / across, (top - tall - 0.02) / whole, "\n".join(written[name]), **style)
        top -= tall + below[name]
    return figure


def words_figure(
    image: UInt8[np.ndarray, "H W 3"], words: Sequence[str], maps: Mapping[str, Float[np.ndarray, "n h w"]]
) -> Figure:
    """What places attend to, over the grey image: a column a word, a row a resolution, each tile from its least to its
    most.

    Args:
        maps: of all words, by the label of their row.
    """
    rows = {
        label: np.stack([_as_bytes(enlarge(image)), *(_as_bytes(overlay(image, x)) for x in of_words)])
        for label, of_words in maps.items()
    }
    return rows_figure(rows, ["sample", *(word if len(word) < 13 else f"{word[:11]}..." for word in words)])


def schedules_figure(
    alphas: Mapping[str, Float[np.ndarray, " T"]], own: Float[np.ndarray, " T"] | None = None
) -> Figure:
    """What is left of the image, alpha-bar, and signal to noise, over the steps: a line a schedule.

    Args:
        own: that of a run, drawn above the others.
    """
    figure = Figure(figsize=(8.6, 3.3), layout="constrained", dpi=_DPI)
    left, right = figure.subplots(1, 2)
    lines = {name: (table, {"color": colour, "linewidth": 1.5, "linestyle": ":" if "without" in name else "-"})
             for (name, table), colour in zip(alphas.items(), _COLOURS, strict=False)}  # fmt: skip
    if own is not None:
        lines["this run"] = own, {"color": "black", "linewidth": 3, "alpha": 0.35}
    for name, (table, style) in lines.items():
        share = np.arange(1, len(table) + 1) / len(table)
        left.plot(share, table, label=name, **style)
        right.plot(share, 10 * np.log10(table / (1 - table)), label=name, **style)
    left.set(title="alpha-bar: share of the image in the variance", xlabel="t / T")
    right.set(title="signal to noise, dB", xlabel="t / T")
    right.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    left.legend(frameon=False, fontsize=8)
    return _plain(figure)


def worth_figure(
    error: Float[np.ndarray, " T"],
    bits: Float[np.ndarray, " T"],
    rate: Float[np.ndarray, " T"],
    distortion: Float[np.ndarray, " T"],
) -> Figure:
    """Loss by t; distortion by t; rate against distortion (DDPM, figure 5)."""
    figure = Figure(figsize=(12.2, 3.3), layout="constrained", dpi=_DPI)
    by_step, distorted, against = figure.subplots(1, 3)
    steps = np.arange(1, len(error) + 1)
    by_step.plot(steps, error, color=_COLOURS[0], label="squared error of the prediction")
    by_step.plot(steps, np.maximum(bits, 1e-9), color=_COLOURS[1], label="bits a dimension of this step")
    by_step.set(title="loss by t", xlabel="t", yscale="log")
    low, high = (f(np.concatenate([error, bits[bits > 0]])) for f in (np.min, np.max))
    by_step.set_ylim(max(low, high * 1e-6) / 2, 2 * high)
    by_step.legend(frameon=False, fontsize=8)
    distorted.plot(steps, distortion, color=_COLOURS[2])
    distorted.set(title="distortion of the expected image, of 255", xlabel="t", ylim=(0, None))
    against.plot(rate, distortion, color=_COLOURS[2], marker="o", markersize=2, linewidth=1)
    against.set(
        title="rate against distortion", xlabel="bits a dimension", ylabel="distortion, of 255", xlim=(0, None),
        ylim=(0, None),
    )  # fmt: skip
    return _plain(figure)


def tenths_figure(lines: Mapping[str, Sequence[float]]) -> Figure:
    """The squared error of training by tenths of the steps, least noise first: a line a run."""
    figure = Figure(figsize=(5.2, 3.3), layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    for i, (label, values) in enumerate(lines.items()):
        style = {"color": _COLOURS[i % len(_COLOURS)], "linestyle": ("-", "--", ":")[i // len(_COLOURS) % 3]}
        axes.plot(
            np.arange(len(values)) + 0.5, values, marker="o", markersize=4, label=label.replace("$", r"\$"), **style
        )
    axes.set(title="loss by t", xlabel="tenth of the steps, least noise first", yscale="log")
    axes.set_xticks(range(max(map(len, lines.values())) + 1))
    axes.legend(frameon=False, fontsize=8)
    return _plain(figure)


def _as_bytes(image: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return (255 * image).clip(0, 255).round().astype(np.uint8)


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    return figure
