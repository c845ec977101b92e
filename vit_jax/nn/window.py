"""Windows over a grid of places: partition, cyclic shift, region mask, relative positions (Swin, arXiv:2103.14030).

A window of M x M places attends within itself, so that the cost grows with the number n of places, not its square
(equations 1 and 2, multiplications with C channels: projections, then the two products of attention):

    all places       4 n C^2 + 2 n^2 C
    windows          4 n C^2 + 2 M^2 n C

Every second block moves the windows by M // 2, so that neighbours meet; what comes around at the borders is masked.
What a place is to another depends on their distance, in rows and columns, by a table B (equation 4):

    softmax(Q K^T / sqrt(d) + B) V
"""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

PadOrder = Literal["pad_then_shift", "shift_then_pad"]
Clamp = Literal["both", "each"]

# Added to the logits between places of different regions (the authors' code).
MASKED = -100.0


@dataclasses.dataclass(frozen=True)
class Windows:
    """How the places of a grid are divided into windows; those of one image are neighbours in the batch of windows.

    Args:
        grid: rows and columns of places.
        size: those of a window; where the grid is no multiple, it is filled up with zeros at the bottom and the right.
        shift: rows and columns by which the grid is rolled up and to the left before it is divided.
        pad_order: "pad_then_shift" (the authors' detection code, transformers) rolls what is filled up along, and
            "shift_then_pad" (timm) fills up what is rolled. They differ, by a fifth of the output, where something is
            filled up.
    """

    grid: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int] = (0, 0)
    pad_order: PadOrder = "pad_then_shift"

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return tuple(-(-side // size) for side, size in zip(self.grid, self.size, strict=True))

    @property
    def count(self) -> int:
        """Windows of an image."""
        return math.prod(self.tiles)

    @property
    def tokens(self) -> int:
        """Places of a window."""
        return math.prod(self.size)

    def split(self, x: Float[Array, "b t width"]) -> Float[Array, "b_n m width"]:
        """Shift and partition: the places of each window, row by row."""
        batch, width = x.shape[0], x.shape[-1]
        x = x.reshape(batch, *self.grid, width)
        for step in self._steps():
            x = self._padded(x) if step == "pad" else jnp.roll(x, [-s for s in self.shift], (1, 2))
        (rows, columns), (height, wide) = self.tiles, self.size
        x = x.reshape(batch, rows, height, columns, wide, width).swapaxes(2, 3)
        return x.reshape(batch * self.count, self.tokens, width)

    def join(self, windows: Float[Array, "b_n m width"]) -> Float[Array, "b t width"]:
        """The inverse of `split`: reverse, and shift back."""
        batch, width = windows.shape[0] // self.count, windows.shape[-1]
        (rows, columns), (height, wide) = self.tiles, self.size
        x = windows.reshape(batch, rows, columns, height, wide, width).swapaxes(2, 3)
        x = x.reshape(batch, rows * height, columns * wide, width)
        for step in reversed(self._steps()):
            x = x[:, : self.grid[0], : self.grid[1]] if step == "pad" else jnp.roll(x, self.shift, (1, 2))
        return x.reshape(batch, math.prod(self.grid), width)

    def regions(self) -> Int[np.ndarray, "n m"] | None:
        """Of every place in every window its region: what the shift brought together from two ends of the grid is of
        different ones. None where nothing is shifted."""
        if not any(self.shift):
            return None
        axes = zip(self.tiles, self.size, self.shift, strict=True)
        rows, columns = (_regions(count * size, size, shift).reshape(count, size) for count, size, shift in axes)
        return self._outer(3 * rows, columns)

    def places(self) -> Int[np.ndarray, "n m"]:
        """Of every place in every window its number in the grid, row by row; -1 where it was filled up."""
        axes = zip(self.grid, self.tiles, self.size, self.shift, strict=True)
        rows, columns = (self._axis(*axis) for axis in axes)
        known = self._outer(np.where(rows < 0, -(2**30), rows * self.grid[1]), np.where(columns < 0, -(2**30), columns))
        return np.maximum(known, -1)

    def _outer(self, rows: Int[np.ndarray, "r h"], columns: Int[np.ndarray, "c w"]) -> Int[np.ndarray, "n m"]:
        """Of every place in every window the sum of what its row and its column have."""
        return (rows[:, None, :, None] + columns[None, :, None, :]).reshape(self.count, self.tokens).astype(np.int32)

    def _axis(self, side: int, count: int, size: int, shift: int) -> Int[np.ndarray, "count size"]:
        """Along one axis the number of every place in every window; -1 where it was filled up."""
        found, more = np.arange(side), np.full(count * size - side, -1)
        for step in self._steps():
            found = np.concatenate([found, more]) if step == "pad" else np.roll(found, -shift)
        return found.reshape(count, size)

    def _steps(self) -> tuple[str, ...]:
        """What `split` does before it divides, in order."""
        if not any(self.shift):
            return ("pad",)
        return ("pad", "shift") if self.pad_order == "pad_then_shift" else ("shift", "pad")

    def _padded(self, x: Float[Array, "b h w c"]) -> Float[Array, "b ph pw c"]:
        axes = zip(self.grid, self.tiles, self.size, strict=True)
        more = [(0, count * size - side) for side, count, size in axes]
        return jnp.pad(x, [(0, 0), *more, (0, 0)]) if any(after for _, after in more) else x


def windows_on(
    grid: tuple[int, int],
    window_size: int,
    *,
    shifted: bool = False,
    pad_order: PadOrder = "pad_then_shift",
    clamp: Clamp = "both",
) -> Windows:
    """Windows of M x M places, shifted by M // 2; smaller ones, and no shift, on a grid that is not larger than one.

    Args:
        grid: rows and columns of places.
        window_size: M.
        shifted: whether they are.
        pad_order: see `Windows`.
        clamp: "both" (the authors, transformers): the windows are squares of the grid's smaller side where that is not
            larger than M, and not shifted at all. "each" (timm): rows and columns are limited each on their own.
    """
    shift = window_size // 2 if shifted else 0
    if clamp == "each":
        size = tuple(min(side, window_size) for side in grid)
        shifts = tuple(0 if side <= window_size else shift for side in grid)
        return Windows(grid, size, shifts, pad_order)
    if min(grid) <= window_size:
        return Windows(grid, (min(grid),) * 2, (0, 0), pad_order)
    return Windows(grid, (window_size,) * 2, (shift,) * 2, pad_order)


def region_mask(regions: Shaped[Array, "*n m"] | Shaped[np.ndarray, "*n m"]) -> Float[Array, "*n m m"]:
    """-100 between places of different regions, 0 between those of one; to add to the logits."""
    regions = jnp.asarray(regions)
    return jnp.where(regions[..., :, None] == regions[..., None, :], 0.0, MASKED)


def table_rows(size: tuple[int, int]) -> int:
    """Distances between two places of a window: (2M - 1)^2."""
    return math.prod(2 * side - 1 for side in size)


def relative_index(size: tuple[int, int]) -> Int[np.ndarray, "m m"]:
    """Of each query and key of a window the number of their distance, query minus key, in the table of distances."""
    rows, columns = (side.reshape(-1) for side in np.meshgrid(*map(np.arange, size), indexing="ij"))
    down, right = (axis[:, None] - axis[None, :] for axis in (rows, columns))
    return ((down + size[0] - 1) * (2 * size[1] - 1) + right + size[1] - 1).astype(np.int32)


def relative_bias(table: Float[Array, "distances heads"], size: tuple[int, int]) -> Float[Array, "1 heads m m"]:
    """What a table of relative positions adds to the logits of a window (Swin, equation 4), for all windows alike."""
    index = relative_index(size)
    return table[index.reshape(-1)].T.reshape(1, table.shape[1], *index.shape)


def _regions(length: int, size: int, shift: int) -> Int[np.ndarray, " length"]:
    """Along one axis: all but the last window, the part of that which stayed, and the part that came around."""
    at = np.arange(length)
    return (at >= length - size).astype(np.int32) + (at >= length - shift) if shift else np.zeros(length, np.int32)
