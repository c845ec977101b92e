"""The arrays of `vit_jax.inspection` as matplotlib figures, made without pyplot: for notebooks and `vit_jax visualize`.

A notebook shows a figure that is a cell's last value; elsewhere `figure.savefig(path)` writes it. Many small maps are
laid out on one canvas, which draws in a fraction of the time of as many axes.
"""

import math
from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

_DPI = 110
_HEAT = "inferno"


def filters_figure(components: Float[np.ndarray, "n ph pw channels"], columns: int = 7) -> Figure:
    """Components of the patch embedding as RGB tiles; zero is mid-grey, each is scaled to its own largest entry."""
    scaled = components / np.maximum(np.abs(components).max(axis=(1, 2, 3), keepdims=True), 1e-12)
    tiles = np.broadcast_to(0.5 + 0.5 * scaled, (*scaled.shape[:3], 3))
    columns = min(columns, len(tiles))
    gap = max(1, tiles.shape[1] // 8)
    canvas, _, _ = _tile(tiles, columns, gap)
    rows = math.ceil(len(tiles) / columns)
    height = 0.75 * rows * tiles.shape[1] / tiles.shape[2]
    figure = Figure(figsize=(max(0.75 * columns + 0.2, 4.6), height + 0.6), layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"patch embedding: first {len(tiles)} principal components", fontsize=10)
    return figure


def similarity_figure(similarities: Mapping[str, Float[np.ndarray, "gh gw gh gw"]]) -> Figure:
    """Cosine similarity of each position's embedding to all others (ViT, figure 7, centre), a panel a title.

    On grids of more than 16 positions a side, evenly spaced ones have tiles; each tile shows all positions.
    """
    canvases = {}
    for title, similarity in similarities.items():
        rows, columns = similarity.shape[:2]
        step = math.ceil(max(rows, columns) / 16)
        tiles = similarity[step // 2 :: step, step // 2 :: step]
        across = tiles.shape[1]
        tiles = tiles.reshape(-1, rows, columns, 1)
        scale = max(1, math.ceil(800 / (across * columns)))  # finer than the screen, so that no line gets lost
        tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
        canvas, _, _ = _tile(tiles, across, max(scale, tiles.shape[2] // 12))
        canvases[title if step == 1 else f"{title}, every {step} positions"] = canvas[..., 0]
    side = 4.6 if len(canvases) > 1 else 5.6
    aspect = max(len(canvas) / canvas.shape[1] for canvas in canvases.values())
    figure = Figure(
        figsize=(side * len(canvases), max(2.4, side * min(aspect, 1.2) - 0.2)), layout="constrained", dpi=_DPI
    )
    grid = figure.subplots(1, len(canvases), squeeze=False)[0]
    colours = colormaps["viridis"]
    for axes, (title, canvas) in zip(grid, canvases.items(), strict=True):
        # As colours, because scaling values would widen the gaps, which are not numbers.
        pixels = np.where(np.isnan(canvas)[..., None], 1.0, colours(np.nan_to_num(canvas) / 2 + 0.5)[..., :3])
        axes.imshow(pixels, interpolation="antialiased")
        axes.set_axis_off()
        axes.set_title(title, fontsize=11, parse_math=False)
    figure.get_layout_engine().set(wspace=0.06)
    scale = ScalarMappable(Normalize(-1, 1), colours)
    figure.colorbar(scale, ax=figure.axes, shrink=0.8, label="cosine similarity", ticks=[-1, -0.5, 0, 0.5, 1])
    return figure


def distance_figure(distances: Mapping[str, Float[np.ndarray, "L H"]], image_size: tuple[int, int]) -> Figure:
    """Mean attention distance of every head by layer (ViT, figure 7, right), a panel a title, on one scale."""
    figure = Figure(figsize=(4.8 * len(distances), 3.6), layout="constrained", dpi=_DPI)
    grid = figure.subplots(1, len(distances), squeeze=False, sharey=True)[0]
    for axes, (title, distance) in zip(grid, distances.items(), strict=True):
        layers, heads = distance.shape
        colours = colormaps["viridis"](np.linspace(0, 0.9, heads))
        for head in range(heads):
            axes.scatter(np.arange(1, layers + 1), distance[:, head], s=22, color=colours[head], linewidths=0)
        axes.plot(np.arange(1, layers + 1), distance.mean(axis=1), color="0.45", linewidth=1, zorder=0)
        axes.set_title(title, parse_math=False)
        axes.set(xlabel=f"layer (a dot for each of {heads} heads, a line for their mean)", xlim=(0.5, layers + 0.5))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylim(0, 1.08 * max(float(distance.max()) for distance in distances.values()) or 1)
    grid[0].set_ylabel(f"mean distance in pixels of {image_size[0]}x{image_size[1]}")
    return figure


def rollout_figure(image: UInt8[np.ndarray, "h w 3"], rollout: Float[np.ndarray, "gh gw"]) -> Figure:
    """The image as the model sees it, and rollout laid over it."""
    return images_figure({"what the model sees": enlarge(image), "attention rollout": overlay(image, rollout)})


def reconstruction_figure(
    image: UInt8[np.ndarray, "h w 3"], masked: UInt8[np.ndarray, "h w 3"], completed: UInt8[np.ndarray, "h w 3"]
) -> Figure:
    """What a masked autoencoder was shown, what it made of it, and the image."""
    return images_figure({
        "what the encoder sees": enlarge(masked),
        "reconstruction": enlarge(completed),
        "original": enlarge(image),
    })  # fmt: skip


def heads_figure(image: UInt8[np.ndarray, "h w 3"], maps: Float[np.ndarray, "H gh gw"]) -> Figure:
    """Maps of the heads of one layer laid over the image."""
    tiles = {f"head {i}": overlay(image, one) for i, one in enumerate(maps, 1)}
    return images_figure(tiles, columns=6, inches=1.6)


def layers_figure(maps: Float[np.ndarray, "L H gh gw"]) -> Figure:
    """Maps of all layers (rows) and heads (columns), and last the mean over heads; each from its least to its most."""
    layers, heads = maps.shape[:2]
    maps = np.concatenate([maps, maps.mean(axis=1, keepdims=True)], axis=1)
    scaled = _stretch(maps)
    scale = math.ceil(48 / max(maps.shape[2:]))  # so that gaps are thin beside small grids
    tiles = scaled.reshape(-1, *maps.shape[2:], 1).repeat(scale, axis=1).repeat(scale, axis=2)
    gap = max(2, tiles.shape[2] // 16)
    canvas, ys, xs = _tile(tiles, heads + 1, gap)
    width = 0.55 * (heads + 1)
    height = width * canvas.shape[0] / canvas.shape[1]
    figure = Figure(figsize=(max(width, 2.6) + 1.2, height + 0.8), layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    image = axes.imshow(canvas[..., 0], vmin=0, vmax=1, cmap=_HEAT, interpolation="nearest")
    axes.set_xticks(xs[: heads + 1], [*(str(i) for i in range(1, heads + 1)), "mean"], fontsize=8)
    axes.set_yticks(ys[:: heads + 1], [str(i) for i in range(1, layers + 1)], fontsize=8)
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="head", ylabel="layer")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=min(1, 2.4 / height), aspect=15, ticks=[0, 1], pad=0.02)
    bar.ax.set_yticklabels(["least", "most"], fontsize=8)
    return figure


def images_figure(images: Mapping[str, Float[np.ndarray, "h w 3"]], columns: int = 4, inches: float = 3.2) -> Figure:
    """RGB images in [0, 1], all of one size, each with its label above.

    Args:
        images: by their labels.
        columns: images in a row, at most.
        inches: width of an image.
    """
    tiles = np.stack(list(images.values()))
    height, width = tiles.shape[1:3]
    columns = min(columns, len(tiles))
    band = round(0.28 / inches * width)  # room for a line of text
    tiles = np.pad(tiles, ((0, 0), (band, 0), (0, 0), (0, 0)), constant_values=1.0)
    canvas, ys, xs = _tile(tiles, columns, max(2, width // 24))
    size = (inches * columns, inches * columns * canvas.shape[0] / canvas.shape[1])
    figure = Figure(figsize=size, dpi=_DPI)
    axes: Axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.imshow(canvas, interpolation="antialiased")
    axes.set_axis_off()
    for x, y, label in zip(xs, ys, images, strict=True):
        axes.text(x, y - height / 2, label, ha="center", va="center", fontsize=9, parse_math=False)
    return figure


def overlay(image: UInt8[np.ndarray, "h w 3"], values: Float[np.ndarray, "gh gw"]) -> Float[np.ndarray, "H W 3"]:
    """The map, from its least to its most, as heat over the grey image; small images are enlarged.

    Each patch has one colour, unsmoothed: the model does not know more. The lower it is, the more of the image shows,
    which a map with one high patch would otherwise turn black.
    """
    image = enlarge(image)
    grey = image.mean(axis=-1, keepdims=True)
    values = _stretch(values)
    opacity = 0.45 + 0.3 * values[..., None]
    heat = colormaps[_HEAT](values)[..., :3] * opacity
    heat, opacity = (
        cv2.resize(x.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_NEAREST) for x in (heat, opacity)
    )
    return (1 - opacity[..., None]) * grey + heat


def _stretch(maps: Float[np.ndarray, "*n gh gw"]) -> Float[np.ndarray, "*n gh gw"]:
    """Each map from 0 to 1; one without differences is all 0."""
    low, high = (f(maps, axis=(-2, -1), keepdims=True) for f in (np.min, np.max))
    return (maps - low) / np.maximum(high - low, 1e-12)


def enlarge(image: UInt8[np.ndarray, "h w 3"], smallest: int = 160, largest: int = 448) -> Float[np.ndarray, "H W 3"]:
    """In [0, 1], at a size for looking at: whole multiples when small, averaged when large."""
    height, width = image.shape[:2]
    scale = max(1, math.ceil(smallest / max(height, width)))
    shrink = min(1.0, largest / max(height, width))
    size = (max(1, round(width * scale * shrink)), max(1, round(height * scale * shrink)))
    method = cv2.INTER_AREA if shrink < 1 else cv2.INTER_NEAREST
    return cv2.resize(image, size, interpolation=method).astype(np.float32) / 255


def _tile(
    tiles: Float[np.ndarray, "n h w channels"], columns: int, gap: int
) -> tuple[Float[np.ndarray, "H W channels"], list[float], list[float]]:
    """Tiles row by row on one canvas, with NaN (which is drawn as nothing, or white) between; and their centres."""
    count, height, width, channels = tiles.shape
    rows = math.ceil(count / columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    # White for colours; nothing for values that a colour map is to draw.
    canvas = np.full((*size, channels), 1.0 if channels == 3 else np.nan, np.float32)
    ys, xs = [], []
    for i, tile in enumerate(tiles):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[y : y + height, x : x + width] = tile
        ys.append(y + (height - 1) / 2)
        xs.append(x + (width - 1) / 2)
    return canvas, ys, xs
