"""Photos of any size through a network that enlarges: whole, or in tiles that fade into each other."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float32, UInt8

from vit_jax.errors import UserError
from vit_jax.tasks import Task

TILE = 512
_FADE = 16  # pixels over which one tile goes over into the next, beyond what either sees only in part

Outputs = Callable[[Mapping[str, Any], tuple[str, ...]], Mapping[str, Array]]


def upscale(
    task: Task, outputs: Outputs, photo: UInt8[np.ndarray, "h w 3"], tile: int | None = TILE
) -> UInt8[np.ndarray, "sh sw 3"]:
    """A photo in `scale` times the resolution.

    Tiles overlap by what convolutions see beyond a place, and over some pixels more they are mixed, so that no seam
    shows. What attends to a whole image, as linear attention does, attends to a tile instead: the result is not quite
    that of the whole photo. Of a network without it, it is.

    Args:
        task: one of super-resolution.
        outputs: gives "restored" for a batch.
        tile: side of a tile in pixels of the photo; None for the whole photo at once.

    Raises:
        UserError: for a task that enlarges nothing, or a tile that is smaller than its borders.
    """
    scale, border = getattr(task.model, "scale", None), getattr(task.model, "border", None)
    if scale is None or border is None or "restored" not in task.answered_by:
        raise UserError("This checkpoint does not enlarge images", "Train one with the task super_resolution")
    sides = photo.shape[:2]
    tiles = tuple(side if tile is None else min(tile, side) for side in sides)
    if tiles != sides and tile <= 2 * border + _FADE:
        raise UserError(
            f"A tile of {tile} pixels has nothing within its borders of {border} and the {_FADE} that are mixed",
            f"Make it larger, such as {TILE}",
        )
    rows, columns = (
        list(_along(side, of, border, scale)) for side, of in zip(sides, tiles, strict=True)
    )  # fmt: skip
    total = np.zeros((scale * sides[0], scale * sides[1], 3), np.float32)
    weights = np.zeros((*total.shape[:2], 1), np.float32)
    for top, down in rows:
        for left, right in columns:
            part = photo[top : top + tiles[0], left : left + tiles[1]]
            made = np.asarray(outputs({"image": part[None]}, ("restored",))["restored"][0])
            place = np.s_[
                scale * top : scale * (top + tiles[0]), scale * left : scale * (left + tiles[1])
            ]  # fmt: skip
            weight = (down[:, None] * right)[..., None]
            total[place] += weight * made
            weights[place] += weight
    return np.clip(np.round(total / weights), 0, 255).astype(np.uint8)


def _along(side: int, tile: int, border: int, scale: int) -> Iterator[tuple[int, Float32[np.ndarray, " scaled"]]]:
    """Of each tile along an axis where it starts, and what it counts for: nothing at its inner borders, then more and
    more."""
    step = tile - 2 * border - _FADE
    count = 1 if tile == side else math.ceil((side - tile) / step) + 1
    ramp = (np.arange(tile * scale) + 0.5 - border * scale) / (_FADE * scale)
    for i in range(count):
        first, last = i == 0, i == count - 1
        weight = np.ones(tile * scale)
        weight = weight if first else np.minimum(weight, ramp)
        weight = weight if last else np.minimum(weight, ramp[::-1])
        yield side - tile if last else i * step, np.maximum(weight, 0).astype(np.float32)
