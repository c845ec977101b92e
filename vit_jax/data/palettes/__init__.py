"""The colours in which labelled sets show their classes, with the classes' names in the order of the labels."""

import functools
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from vit_jax.data.drawing import color
from vit_jax.errors import UserError
from vit_jax.naming import nearest

# Name of the palette, which is that of its file here, and its number of classes.
PALETTES = {"ade20k": 150, "cityscapes": 19}


class Palette(NamedTuple):
    """Classes in the order of their labels.

    Args:
        names: all different.
        colors: red, green and blue of each.
    """

    names: tuple[str, ...]
    colors: UInt8[np.ndarray, "K 3"]


@functools.cache
def palette(name: str) -> Palette:
    """A published one, "cityscapes" or "ade20k"; its source stands in its file.

    Raises:
        UserError: for another name.
    """
    if name not in PALETTES:
        raise UserError(f"Unknown palette '{name}'", nearest(name, PALETTES))
    text = resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    rows = [line.split(" ", 3) for line in text.splitlines() if not line.startswith("#")]
    colors = np.array([row[:3] for row in rows], np.uint8)
    colors.flags.writeable = False  # it is shared
    return Palette(tuple(row[3] for row in rows), colors)


def colors_for(names: Sequence[str]) -> UInt8[np.ndarray, "K 3"]:
    """The published colours where these are the names of a palette; else one for each, neighbours far apart."""
    for name, count in PALETTES.items():
        if count == len(names) and palette(name).names == tuple(names):
            return palette(name).colors
    return np.array([color(number) for number in range(len(names))], np.uint8).reshape(-1, 3)
