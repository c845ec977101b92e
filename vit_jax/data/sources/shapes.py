"""Drawn shapes on made-up textures, with masks of wholes and of parts: a data set of any size without a file."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vit_jax.data import geometry
from vit_jax.data.scene import Part, Scene, filled, texture
from vit_jax.data.seeds import derived_seed
from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.ranges import Count, Natural

# What can be drawn, and the parts of what has some.
KINDS = ("disc", "square", "triangle", "scissors")
_PARTS = {"scissors": ("handles", "handle", "blade")}
# What can be said of a colour in a name, in RGB.
COLORS = {
    "red": (215, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 210), "yellow": (245, 210, 50),
    "purple": (140, 50, 160), "white": (235, 235, 235), "black": (25, 25, 25),
}  # fmt: skip
_SHADE = 20  # by which each channel of a named colour differs at most
_FINER = 4  # times as finely as pixels edges are drawn, before they are averaged


class ShapesSource:
    """Scenes, each a function of seed and index alone; see `build`."""

    field_names = frozenset({"image", "segmentation", "masks", "boxes"})

    def __init__(
        self,
        length: int,
        image_size: tuple[int, int],
        kinds: tuple[str, ...],
        objects: tuple[int, int],
        scale: tuple[float, float],
        colors: tuple[str, ...],
        seed: int,
    ):
        self._length, self._size, self._kinds, self._objects = length, image_size, kinds, objects
        self._scale, self._colors, self._seed = scale, colors, seed
        parts = [name for kind in kinds for name in (kind, *_PARTS.get(kind, ()))]
        if colors:
            parts = [_called(color, kind) for kind in kinds for color in colors]
        self.label_names = ("background", *parts)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self._seed, index))
        scene = Scene(texture(self._size, rng), rng)
        for k in range(int(rng.integers(self._objects[0], self._objects[1] + 1))):
            kind = self._kinds[int(rng.integers(len(self._kinds)))]
            side = min(self._size) * rng.uniform(*self._scale)
            scene.put(*self._drawn(kind, side, rng), must=k == 0)
        return scene.example()

    def _drawn(self, kind: str, side: float, rng: np.random.Generator) -> tuple[UInt8[np.ndarray, "h w 4"], list[Part]]:
        """The picture of an object of so many pixels, turned at random, and its parts."""
        turn = rng.uniform(0, 2 * math.pi)
        name, color = kind, rng.uniform(0, 255, 3)
        if self._colors:
            said = self._colors[int(rng.integers(len(self._colors)))]
            name, color = _called(said, kind), np.clip(COLORS[said] + rng.uniform(-_SHADE, _SHADE, 3), 0, 255)
        if kind != "scissors":
            [mask] = _rasters([_outline(kind)], turn, side)
            return filled(mask, color), [Part(mask > 127, self._number(name))]
        opening, steel = rng.uniform(0.7, 1.1), rng.uniform(90, 230, 3)
        blades = [_moved(_BLADE, sign * opening / 2) for sign in (-1, 1)]
        handles = [_moved(_RING, sign * opening / 2) for sign in (-1, 1)]
        *solid, hole, other_hole = _rasters(
            [*blades, *handles, *(_moved(_HOLE, s * opening / 2) for s in (-1, 1))], turn, side
        )
        solid[2], solid[3] = solid[2] - np.minimum(hole, solid[2]), solid[3] - np.minimum(other_hole, solid[3])
        metal, grip = np.maximum(solid[0], solid[1]), np.maximum(solid[2], solid[3])
        # A handle lies over the blades; the picture is as opaque as whatever is thickest.
        share = grip[..., None] / np.maximum(np.maximum(metal, grip), 1)[..., None]
        colors = steel * (1 - share) + color * share
        picture = np.dstack([np.round(colors).astype(np.uint8), np.maximum(metal, grip)])
        one, two = (ring > 127 for ring in solid[2:])
        two &= ~one
        first, second = (blade > 127 for blade in solid[:2])
        first, second = first & ~one & ~two, second & ~first & ~one & ~two
        masks = {
            "scissors": [picture[..., 3] > 127],
            "blade": [first, second],
            "handles": [one | two],
            "handle": [one, two],
        }
        return picture, [Part(mask, self._number(name)) for name, found in masks.items() for mask in found]

    def _number(self, name: str) -> int:
        return self.label_names.index(name)


def build(
    length: Count,
    image_size: int | Sequence[int] = 64,
    kinds: Sequence[str] = KINDS,
    objects: Sequence[int] = (1, 3),
    scale: Sequence[float] = (0.35, 0.7),
    colors: Sequence[str] = (),
    seed: Natural = 0,
) -> ShapesSource:
    """Scenes of shapes: image, segmentation, masks and boxes, with one numbering of classes in all, 0 for the
    background; `label_names` has their names. Scissors have masks of six parts: the whole, either blade, both handles
    together, and either handle.

    Args:
        length: scenes.
        image_size: (height, width), or one number for squares.
        kinds: which are drawn, of "disc", "square", "triangle" and "scissors".
        objects: least and most in a scene; those that would cover too much of others are left out.
        scale: least and largest size, as a share of the image's smaller side.
        colors: names of `COLORS` that shapes have, in some shade, and that are in the names of their classes: "red
            disc". Without any, colours are any and have no name. Scissors are of several colours.
        seed: of the scenes; another for those that are held out.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"There is no shape named {kind!r}", nearest(str(kind), KINDS))
    if not kinds or len(set(kinds)) != len(kinds):
        raise UserError(f"kinds={list(kinds)} is not a choice of shapes", f"Name different ones of {', '.join(KINDS)}")
    for color in colors:
        if color not in COLORS:
            raise UserError(f"There is no colour named {color!r}", nearest(str(color), COLORS))
    if colors and "scissors" in kinds:
        raise UserError("Scissors are of several colours", "Leave them out of kinds, or colors")
    size, of_scale = geometry.size_pair(image_size), geometry.bounds("scale", scale, 1)
    counts = object_counts(objects)
    return ShapesSource(length, size, tuple(kinds), counts, of_scale, tuple(colors), derived_seed(seed, 19))


def _called(color: str, kind: str) -> str:
    return f"{color} {kind}"


def object_counts(objects: Sequence[int]) -> tuple[int, int]:
    """Least and most objects of a scene.

    Raises:
        UserError: unless they are whole numbers, 1 <= least <= most.
    """
    if len(objects) != 2 or not all(type(count) is int for count in objects) or not 1 <= objects[0] <= objects[1]:
        raise UserError(f"objects={list(objects)} is not a range of numbers", "Give two from 1: a scene has objects")
    return tuple(objects)


# Outlines in a plane of which [-1, 1] x [-1, 1] is seen; those of scissors that are closed and point upwards, whose
# pivot is in the middle.
_CIRCLE = np.stack([np.cos(angles := np.linspace(0, 2 * np.pi, 48, endpoint=False)), np.sin(angles)], axis=1)
_BLADE = np.array([[0.0, -1.0], [0.1, -0.7], [0.12, 0.3], [-0.12, 0.3]])
_RING = 0.27 * _CIRCLE + [0.0, 0.6]
_HOLE = 0.14 * _CIRCLE + [0.0, 0.6]


def _outline(kind: str) -> np.ndarray:
    corners = {"square": 4, "triangle": 3}.get(kind)
    return _CIRCLE if corners is None else _CIRCLE[:: len(_CIRCLE) // corners]


def _moved(outline: np.ndarray, angle: float) -> np.ndarray:
    """Turned about the pivot."""
    cos, sin = math.cos(angle), math.sin(angle)
    return outline @ np.array([[cos, sin], [-sin, cos]])


def _rasters(outlines: Sequence[np.ndarray], turn: float, side: float) -> list[UInt8[np.ndarray, "h w"]]:
    """Each outline filled, in one frame that is as large as all of them turned, from 0 to 255 with soft edges."""
    moved = [_moved(outline, turn) * (side / 2) for outline in outlines]
    low = np.floor(np.concatenate(moved).min(axis=0))
    width, height = (np.ceil(np.concatenate(moved).max(axis=0)) - low).astype(int)
    found = []
    for outline in moved:
        fine = np.zeros((height * _FINER, width * _FINER), np.uint8)
        cv2.fillPoly(fine, [np.round((outline - low) * _FINER - 0.5).astype(np.int32)], 255)
        found.append(cv2.resize(fine, (int(width), int(height)), interpolation=cv2.INTER_AREA))
    return found
