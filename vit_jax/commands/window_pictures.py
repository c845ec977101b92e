"""The pictures of models whose layers look at windows, or whose attention is linear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.commands.picture import Picture
from vit_jax.inspection import layers, window_figures

if TYPE_CHECKING:
    from pathlib import Path

    from vit_jax.checkpoints.load import Loaded
    from vit_jax.inspection.layers import Layer

Section = tuple[str, str, list[Picture]]


def window_sections(loaded: Loaded, images: Mapping[Path, np.ndarray], names: Mapping[Path, str]) -> Iterator[Section]:
    """How far layers of windows look, and of each image windows, what is attended to in them, and what is left out.

    Args:
        images: as the model sees them, uint8.
        names: of the files of each image's pictures.
    """
    size, distances, sections = loaded.preprocess.image_size, [], []
    for path, image in images.items():
        found = layers.window_layers(loaded, loaded.preprocess.normalize(image)[None])
        distances.append({layer.name: layers.attention_distance(layer) for layer in found})
        sections.append((path.name, "", [_attended(names[path], image, found), *_kept(names[path], image, found)]))
    means = {name: np.mean([of_image[name] for of_image in distances], axis=0) for name in distances[0]}
    stages = [name.partition("/")[0] for name in means]
    of_images = "this image" if len(images) == 1 else f"these {len(images)} images"
    yield "How far it looks", "", [Picture(
        "attention_distance",
        window_figures.layers_distance_figure({name: list(heads) for name, heads in means.items()}, size, stages),
        "How far each head looks: the distance between a place and the places that it attends to, weighted by the "
        f"attention, in pixels, a mean over the places of {of_images}. A layer cannot look farther than its windows, "
        "which double from stage to stage in pixels of the image.",
    )]  # fmt: skip
    yield from sections


def linear_sections(loaded: Loaded, images: Mapping[Path, np.ndarray], names: Mapping[Path, str]) -> Iterator[Section]:
    """Of each image what one place attends to in each layer of linear attention."""
    from vit_jax.inspection.linear import linear_layers

    at = _middle(loaded.preprocess.image_size)
    for path, image in images.items():
        found = linear_layers(loaded, loaded.preprocess.normalize(image)[None], at)
        maps = {layer.name: layers.attended(layer, at)[0].mean(axis=0) for layer in found}
        peaks = ", ".join(f"{map_.max() / map_.mean():.1f}" for map_ in maps.values())
        caption = (
            "What the place in the middle, framed in green, attends to: a tile a layer, the mean over its heads, each "
            "from its least to its most. Linear attention never computes these maps: they are its quadratic form, "
            "relu(q) relu(k) over the sum of its row, which gives exactly the same. Its rows are flatter than a "
            f"softmax's, since nothing in it grows exponentially: the largest weights are {peaks} times the mean."
        )
        yield (
            path.name,
            "",
            [Picture(f"{names[path]}_linear", window_figures.attended_figure(image, maps, at), caption)],
        )


def _attended(name: str, image: np.ndarray, found: list[Layer]) -> Picture:
    """Of the last two layers of each stage, a plain one and a shifted one."""
    stages = dict.fromkeys(layer.name.partition("/")[0] for layer in found)
    of_stages = [[layer for layer in found if layer.name.startswith(f"{stage}/")] for stage in stages]
    shown = {layer.name.replace("/", ", "): layer for stage in of_stages for layer in stage[-2:]}
    at = _middle(image.shape[:2])
    maps = {label: layers.attended(layer, at)[0].mean(axis=0) for label, layer in shown.items()}
    groups = {label: layer.groups for label, layer in shown.items()}
    caption = (
        "Windows, outlined in blue, and what the place in the middle of the image, framed in green, attends to within "
        "its own: the last two layers of each stage, plain windows and shifted ones, the mean over heads, each from "
        "its least to its most. Shifted windows lie across the borders of the plain ones, so that after both a place "
        "knows its neighbours' windows; those cut off at the edges are pieces of one window that do not see each other."
    )
    if any(layer.kept is not None for layer in shown.values()):
        caption += " In a layer whose window in the middle is left out, the nearest place that is computed is asked."
    return Picture(f"{name}_windows", window_figures.attended_figure(image, maps, at, groups), caption)


def _kept(name: str, image: np.ndarray, found: list[Layer]) -> list[Picture]:
    """Of layers that leave windows out; nothing for other models."""
    kept = {
        f"{layer.name.replace('/', ', ')}: {layer.kept[0].mean():.0%}": layer.kept[0]
        for layer in found
        if layer.kept is not None
    }
    if not kept:
        return []
    caption = (
        "Which windows are computed: what is dark in a layer is passed on as it is. Windows are ranked by the length "
        "of their tokens' mean activations, once a stage, plain and shifted ones apart; look whether the object is "
        "among those that are kept."
    )
    return [Picture(f"{name}_kept", window_figures.kept_figure(image, kept), caption)]


def _middle(size: tuple[int, int]) -> tuple[float, float]:
    """The centre of the pixel in the middle, which is nowhere on a border of places."""
    return tuple(side // 2 + 0.5 for side in size)
