"""What the words of a text attend to, as matplotlib figures made without pyplot."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_DPI = 110
_HEAT = "inferno"
_FAINT = 0.04  # a weight below it is not drawn as a line


def text_layers_figure(words: Sequence[str], weights: Float[np.ndarray, "L H T T"]) -> Figure:
    """A panel a layer: a row for each word, and in it how much it attends to every other, a mean over the heads."""
    maps = weights.mean(axis=1)
    columns = min(3 if len(words) > 16 else 4, len(maps))
    rows = math.ceil(len(maps) / columns)
    side = max(2.4, 0.2 * len(words) + 0.9)
    figure = Figure(figsize=(side * columns + 0.8, side * rows + 0.4), layout="constrained", dpi=_DPI)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel()[len(maps) :]:
        axes.set_axis_off()
    for layer, (axes, one) in enumerate(zip(grid.ravel(), maps, strict=False), 1):
        image = axes.imshow(one, vmin=0, vmax=1, cmap=_HEAT, interpolation="nearest")
        axes.set_title(f"layer {layer}", fontsize=10)
        _name(axes, "x", words)
        _name(axes, "y", words)
        axes.tick_params(length=0)
    figure.colorbar(image, ax=grid.ravel().tolist(), shrink=0.6 / rows, aspect=15, label="share of attention")
    return figure


def word_heads_figure(words: Sequence[str], weights: Float[np.ndarray, "L H T T"], place: int) -> Figure:
    """What one word attends to: a row for each layer and head, a column for each word."""
    layers, heads, count = weights.shape[:3]
    table = weights[:, :, place].reshape(layers * heads, count)
    size = (max(3.4, 0.3 * count + 1.6), 0.6 + 0.8 + max(1.4, 0.085 * layers * heads))
    figure = Figure(figsize=size, layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    image = axes.imshow(table, vmin=0, vmax=1, cmap=_HEAT, interpolation="nearest", aspect="auto")
    _name(axes, "x", words, place)
    axes.set_yticks((np.arange(layers) + 0.5) * heads - 0.5, [f"layer {i}" for i in range(1, layers + 1)], fontsize=8)
    for layer in range(1, layers):
        axes.axhline(layer * heads - 0.5, color="white", linewidth=1)
    axes.tick_params(length=0)
    axes.set_title(f"from {words[place]!r}, a line a head", fontsize=10, parse_math=False)
    figure.colorbar(image, ax=axes, shrink=0.6, aspect=20, label="share of attention")
    return figure


def word_lines_figure(words: Sequence[str], weights: Float[np.ndarray, "L H T T"], place: int) -> Figure:
    """What one word attends to: a panel a layer, a line from the word to another in the colour of a head, the stronger
    the more of its attention goes there."""
    layers, count = len(weights), len(words)
    columns = min(4, layers)
    rows = math.ceil(layers / columns)
    height = 0.17 * count + 0.5
    figure = Figure(figsize=(2.9 * columns, height * rows + 0.3), layout="constrained", dpi=_DPI)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for layer, axes in enumerate(grid.ravel()[:layers]):
        _lines(axes, words, weights[layer, :, place], place)
        axes.set_title(f"layer {layer + 1}", fontsize=10)
    return figure


def _lines(axes: Axes, words: Sequence[str], weights: Float[np.ndarray, "H T"], place: int) -> None:
    count, heads = len(words), len(weights)
    axes.set(xlim=(-1.1, 2.1), ylim=(count - 0.4, -0.6))
    together = weights.mean(axis=0)
    for i, word in enumerate(words):
        own = i == place
        style = {"fontsize": 8, "va": "center", "parse_math": False}
        axes.text(
            -0.04, i, word, ha="right", color="black" if own else "0.6", weight="bold" if own else "normal", **style
        )
        axes.text(1.04, i, word, ha="left", color=str(round(0.65 * (1 - min(1.0, 2 * together[i])), 2)), **style)
    colours = colormaps["tab10" if heads <= 10 else "tab20"]
    for head, (row, shift) in enumerate(zip(weights, np.linspace(-0.25, 0.25, heads), strict=True)):
        for i in np.flatnonzero(row > _FAINT):
            share = float(row[i])
            line = {
                "color": colours(head % colours.N),
                "alpha": min(1.0, 0.08 + 0.85 * share),
                "linewidth": 0.4 + 2 * share,
            }
            axes.plot([0, 1], [place + shift, i + shift], solid_capstyle="round", **line)


def _name(axes: Axes, axis: Literal["x", "y"], words: Sequence[str], bold: int | None = None) -> None:
    """The words along an axis, as they are: a dollar sign begins no formula."""
    ticks = {"x": axes.set_xticks, "y": axes.set_yticks}[axis]
    ticks(np.arange(len(words)), words, fontsize=8, rotation=90 if axis == "x" else 0, parse_math=False)
    if bold is not None:
        {"x": axes.get_xticklabels, "y": axes.get_yticklabels}[axis]()[bold].set_fontweight("bold")
