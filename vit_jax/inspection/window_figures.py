"""Windows, what is attended to within them, and windows that are left out, drawn over images."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib import colormaps
from matplotlib.figure import Figure

from vit_jax.inspection.figures import enlarge, images_figure, overlay

_DPI = 110
_LINE = np.array((0.35, 0.85, 1.0), np.float32)  # of windows' borders
_QUERY = np.array((0.2, 1.0, 0.3), np.float32)


def attended_figure(
    image: UInt8[np.ndarray, "h w 3"],
    maps: Mapping[str, Float[np.ndarray, "gh gw"]],
    at: tuple[float, float],
    groups: Mapping[str, Int[np.ndarray, "gh gw"]] | None = None,
    columns: int = 4,
) -> Figure:
    """What one query attends to in several layers, laid over the image: the query green, windows outlined in blue.

    Args:
        image: as the model sees it.
        maps: of each layer, by its label; they may differ in size.
        at: row and column of the query's pixel.
        groups: of layers with windows the number of each place's.
    """
    tiles = {}
    for label, values in maps.items():
        tile = overlay(image, values)
        if groups is not None:
            tile = outlined(tile, groups[label])
        tiles[label] = _marked(tile, at, image.shape[:2], values.shape)
    return images_figure(tiles, columns=columns, inches=2.4)


def kept_figure(image: UInt8[np.ndarray, "h w 3"], kept: Mapping[str, Bool[np.ndarray, "gh gw"]]) -> Figure:
    """The image with what is left out of each layer darkened, and the image itself."""
    whole = enlarge(image)
    tiles = {"what the model sees": whole}
    for label, places in kept.items():
        light = cv2.resize(
            np.where(places, 1.0, 0.2).astype(np.float32), whole.shape[1::-1], interpolation=cv2.INTER_NEAREST
        )
        tiles[label] = whole * light[..., None]
    return images_figure(tiles, columns=4, inches=2.4)


def layers_distance_figure(
    distances: Mapping[str, Sequence[float]], image_size: tuple[int, int], stages: Sequence[str]
) -> Figure:
    """How far each head of each layer looks, where layers differ in their number of heads.

    Args:
        distances: of each layer, by its name, of each head.
        image_size: of which the distances are pixels.
        stages: of each layer; each has a colour.
    """
    figure = Figure(figsize=(max(4.8, 0.36 * len(distances) + 1.6), 3.6), layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    names = list(dict.fromkeys(stages))
    colours = dict(zip(names, colormaps["viridis"](np.linspace(0, 0.9, len(names))), strict=True))
    for number, (stage, heads) in enumerate(zip(stages, distances.values(), strict=True), 1):
        axes.scatter([number] * len(heads), heads, s=22, color=[colours[stage]], linewidths=0)
    axes.plot(range(1, len(distances) + 1), [np.mean(heads) for heads in distances.values()], color="0.45", linewidth=1)
    axes.set(
        xlabel="layer (a dot for each head, a line for their mean, a colour for each stage)",
        ylabel=f"mean distance in pixels of {image_size[0]}x{image_size[1]}",
        xlim=(0.5, len(distances) + 0.5),
        ylim=(0, 1.08 * max(map(max, distances.values())) or 1),
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def outlined(tile: Float[np.ndarray, "H W 3"], groups: Int[np.ndarray, "gh gw"]) -> Float[np.ndarray, "H W 3"]:
    """Lines between places of different windows."""
    tile = tile.copy()
    thick = max(1, min(tile.shape[:2]) // 200)
    sides = zip(tile.shape[:2], groups.shape, strict=True)
    rows, columns = (np.linspace(0, side, count + 1).round().astype(int) for side, count in sides)
    for y, x in np.argwhere(groups[1:] != groups[:-1]):
        tile[rows[y + 1] - thick : rows[y + 1] + thick, columns[x] : columns[x + 1]] = _LINE
    for y, x in np.argwhere(groups[:, 1:] != groups[:, :-1]):
        tile[rows[y] : rows[y + 1], columns[x + 1] - thick : columns[x + 1] + thick] = _LINE
    return tile


def _marked(
    tile: Float[np.ndarray, "H W 3"], at: tuple[float, float], image_size: tuple[int, int], grid: tuple[int, int]
) -> Float[np.ndarray, "H W 3"]:
    """A frame around the place of a query."""
    tile = tile.copy()
    edges = []
    for pixel, size, count, side in zip(at, image_size, grid, tile.shape[:2], strict=True):
        place = min(int(pixel / size * count), count - 1)
        edges.append(
            (round(place * side / count), max(round((place + 1) * side / count), round(place * side / count) + 4))
        )
    (top, bottom), (left, right) = edges
    cv2.rectangle(tile, (left, top), (right - 1, bottom - 1), _QUERY.tolist(), max(1, min(tile.shape[:2]) // 120))
    return tile
