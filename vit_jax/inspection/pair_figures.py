"""How alike images and texts are, as matplotlib figures made without pyplot."""

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

_DPI = 110
_HEAT = "inferno"
_NUMBERS_UP_TO = 14  # columns: above, numbers in the cells cannot be read
_WIDE = 26  # letters of a line of a text
_THUMB = 48  # pixels of a row's picture


def similarity_matrix_figure(
    images: Sequence[UInt8[np.ndarray, "h w 3"]], texts: Sequence[str], cosines: Float[np.ndarray, "N K"]
) -> Figure:
    """A row an image, a column a text, in each cell the cosine of their embeddings; where the texts are those of the
    images in their order, a model that knows them has its largest values on the diagonal. The largest of each row is
    in bold.

    Args:
        images: uint8, of any sizes.
        texts: long ones are broken and cut.
    """
    rows, columns = cosines.shape
    cell, title = 0.62, max(1.0, 0.075 * max(len(line) for text in texts for line in _broken(text)))
    figure = Figure(figsize=(cell * columns + 2.4, cell * rows + title), layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    drawn = axes.imshow(cosines, cmap=_HEAT, interpolation="nearest")
    axes.set_xticks(
        range(columns), ["\n".join(_broken(t)) for t in texts], rotation=55, ha="left", fontsize=8, parse_math=False
    )
    axes.xaxis.set_ticks_position("top")
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if columns <= _NUMBERS_UP_TO:
        _number(axes, cosines)
    for row, image in enumerate(images):
        box = OffsetImage(_thumbnail(image), zoom=72 / _DPI, resample=True)
        place = {"xycoords": ("axes fraction", "data"), "frameon": False, "box_alignment": (1.1, 0.5), "pad": 0}
        axes.add_artist(AnnotationBbox(box, (0, row), **place))
    figure.colorbar(drawn, ax=axes, shrink=0.7, aspect=20, label="cosine")
    return figure


def retrieved_figure(
    queries: Sequence[str],
    images: Sequence[Sequence[UInt8[np.ndarray, "h w 3"]]],
    cosines: Sequence[Sequence[float]],
    right: Sequence[Sequence[bool]] | None = None,
) -> Figure:
    """A row a text, with the images that are most like it, the best first.

    Args:
        queries: the texts.
        images, cosines: of each, in their order.
        right: which of them belong to the text, drawn with a frame.
    """
    columns = max(len(row) for row in images)
    figure = Figure(figsize=(1.15 * columns + 2.3, 1.3 * len(queries)), layout="constrained", dpi=_DPI)
    grid = figure.subplots(len(queries), columns, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for i, (row, query) in enumerate(zip(grid, queries, strict=True)):
        label = "\n".join(_broken(query))
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9, labelpad=8, parse_math=False)
        for j, (axes, image, cosine) in enumerate(zip(row, images[i], cosines[i], strict=False)):
            axes.imshow(image, interpolation="antialiased")
            axes.set_title(f"{cosine:.2f}", fontsize=8, pad=2)
            if right is not None and right[i][j]:
                axes.spines[:].set(visible=True, color="tab:green", linewidth=2.5)
    return figure


def _number(axes: Axes, cosines: Float[np.ndarray, "N K"]) -> None:
    low, high = float(cosines.min()), float(cosines.max())
    best = cosines.argmax(axis=1)
    for (row, column), value in np.ndenumerate(cosines):
        light = value - low > 0.6 * (high - low)
        weight = "bold" if column == best[row] else "normal"
        style = {"ha": "center", "va": "center", "fontsize": 8, "color": "black" if light else "white"}
        axes.text(column, row, f"{value:.2f}", weight=weight, **style)


def _thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Of one height, so that rows are of one height."""
    height, width = image.shape[:2]
    wide = max(1, round(_THUMB * width / height))
    method = cv2.INTER_AREA if height > _THUMB else cv2.INTER_NEAREST
    return cv2.resize(image, (min(wide, 2 * _THUMB), _THUMB), interpolation=method)


def _broken(text: str) -> list[str]:
    """At most two lines of a text."""
    return textwrap.wrap(" ".join(text.split()), _WIDE, max_lines=2, placeholder="…") or [""]
