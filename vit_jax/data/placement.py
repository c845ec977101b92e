"""Where a view of an image comes from: drawn once for an example, applied to all of it that lies in the image's plane.

Coordinates are continuous and in pixels: x to the right, y down, pixel (row, column) spans [column, column + 1) and
[row, row + 1).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Shaped, UInt8

from vit_jax.data import geometry
from vit_jax.data.interpolation import interpolate


@dataclass(frozen=True)
class Placement:
    """A part of an image, resized, then rotated about its centre, shifted, and mirrored.

    Args:
        box: top, left, height and width of the part in pixels; whole numbers where `image` is used, and within the
            image where it is rotated or shifted too.
        size: (height, width) of the result.
        flip: whether it is mirrored left and right at the end.
        degrees: of the rotation, counter-clockwise.
        shift: down and right, as fractions of the result's height and width.
        interpolation, antialias: how the image is resized, see `vit_jax.data.interpolation.interpolate`; a rotation or
            shift has a bilinear interpolation of its own.
        border: what rotation and shift bring into the image from outside, see `vit_jax.data.geometry.rotate_shift`.
        fill: the colour of what the box takes from outside the image.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    flip: bool = False
    degrees: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    interpolation: str = "area"
    antialias: bool = True
    border: str = "replicate"
    fill: tuple[int, int, int] = (0, 0, 0)

    def image(self, image: geometry.Image) -> UInt8[np.ndarray, "h w 3"]:
        """The view of an image."""
        top, left, height, width = self.box
        part = image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        image = part if part.shape[:2] == (height, width) else self._filled(part)
        if self.degrees or any(self.shift):
            return geometry.rotate_shift(
                image, self.degrees, self.shift, size=self.size, mirror=self.flip, border=self.border
            )
        image = interpolate(image, self.size, self.interpolation, self.antialias)
        return geometry.flip(image) if self.flip else image

    def _filled(self, part: geometry.Image) -> geometry.Image:
        """What the box takes of an image that it reaches over, with the colour of what is outside around it."""
        top, left, height, width = self.box
        canvas = np.empty((height, width, 3), np.uint8)
        canvas[:] = self.fill
        top, left = max(-top, 0), max(-left, 0)
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
        return canvas

    def dense(self, values: Shaped[np.ndarray, "*n H W"], outside: float) -> Shaped[np.ndarray, "*n h w"]:
        """The view of one value for each pixel, each the nearest, and `outside` where the part has none."""
        return self.dense_of(values.shape[-2:])(values, outside)

    def dense_of(self, plane: tuple[int, int]) -> Callable[[np.ndarray, float], np.ndarray]:
        """`dense` for any number of images of (height, width) `plane`: where pixels come from is found once."""
        top, left, height, width = self.box
        (xx, xy, x0), (yx, yy, y0) = self._to_source
        rows, columns = np.arange(self.size[0])[:, None] + 0.5, np.arange(self.size[1])[None] + 0.5
        x, y = xx * columns + xy * rows + x0, yx * columns + yy * rows + y0
        inside = (x >= max(left, 0)) & (x < min(left + width, plane[1]))
        inside = inside & (y >= max(top, 0)) & (y < min(top + height, plane[0]))
        at = [np.clip(np.floor(of).astype(int), 0, side - 1) for of, side in zip((y, x), plane, strict=True)]

        def taken(values: np.ndarray, outside: float) -> np.ndarray:
            return np.where(inside, values[..., at[0], at[1]], np.asarray(outside, values.dtype))

        return taken

    def points(self, xy: Float[np.ndarray, "n 2"]) -> tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]:
        """Where points (x, y) are in the view, and which of them are in it."""
        top, left, height, width = self.box
        x, y = xy[:, 0], xy[:, 1]
        seen = (x >= left) & (x <= left + width) & (y >= top) & (y <= top + height)
        found = self._from_source(xy)
        return found, seen & (found >= 0).all(axis=1) & (found <= np.array(self.size[::-1])).all(axis=1)

    def boxes(self, xyxy: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        """The upright boxes around what boxes (left, top, right, bottom) show in the view; of no area for nothing."""
        top, left, height, width = self.box
        low, high = np.array([left, top], float), np.array([left + width, top + height], float)
        first, last = np.clip(xyxy[:, :2], low, high), np.clip(xyxy[:, 2:], low, high)
        # What lies beside the part is cut to a line at its edge, which would be a box again when rotated.
        last = np.where((last > first).all(axis=1, keepdims=True), last, first)
        corners = [np.stack([a[:, 0], b[:, 1]], axis=1) for a in (first, last) for b in (first, last)]
        moved = np.stack([self._from_source(corner) for corner in corners])
        edge = np.array(self.size[::-1], float)
        ends = [np.clip(moved.min(axis=0), 0, edge), np.clip(moved.max(axis=0), 0, edge)]
        return np.concatenate(ends, axis=1)

    def inverse(self, shape: tuple[int, int]) -> "Inverse":
        """The way back to the whole image, of (height, width) `shape`."""
        return Inverse(self, shape)

    @cached_property
    def _to_source(self) -> Float64[np.ndarray, "2 3"]:
        """The affine map from (x, y, 1) in the view to (x, y) in the whole image; that of `geometry.rotate_shift`."""
        top, left, box_height, box_width = self.box
        height, width = self.size
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        scale_x, scale_y, sign = box_width / width, box_height / height, -1.0 if self.flip else 1.0
        x0 = -sign * width / 2 - self.shift[1] * width
        y0 = -height / 2 - self.shift[0] * height
        return np.array(
            [
                [scale_x * cos * sign, -scale_x * sin, scale_x * (cos * x0 - sin * y0) + box_width / 2 + left],
                [scale_y * sin * sign, scale_y * cos, scale_y * (sin * x0 + cos * y0) + box_height / 2 + top],
            ]
        )

    def _from_source(self, xy: Float[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
        turn, offset = self._to_source[:, :2], self._to_source[:, 2]
        return (np.asarray(xy, np.float64) - offset) @ np.linalg.inv(turn).T


@dataclass(frozen=True)
class Inverse:
    """From a view to the image that it shows: what a model says of its input, in the image's own pixels.

    Args:
        placement: of the view.
        shape: (height, width) of the image.
    """

    placement: Placement
    shape: tuple[int, int]

    def points(self, xy: Float[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
        """Where points (x, y) of the view are in the image; those of padding lie outside of it."""
        turn, offset = self.placement._to_source[:, :2], self.placement._to_source[:, 2]
        return np.asarray(xy, np.float64) @ turn.T + offset

    def boxes(self, xyxy: Float[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 4"]:
        """The upright boxes around boxes (left, top, right, bottom) of the view, cut at the image's edges."""
        corners = np.stack([self.points(xyxy[:, list(pair)]) for pair in ((0, 1), (0, 3), (2, 1), (2, 3))])
        edge = np.array(self.shape[::-1], float)
        return np.concatenate([np.clip(corners.min(axis=0), 0, edge), np.clip(corners.max(axis=0), 0, edge)], axis=1)

    def dense(self, values: Shaped[np.ndarray, "h w"], outside: float) -> Shaped[np.ndarray, "H W"]:
        """For each pixel of the image the nearest of a view's values, such as classes; `outside` where the view does
        not show it.

        Args:
            values: of the view, at any resolution.
        """
        (rows, seen_rows), (columns, seen_columns) = self._along(0, values.shape[0]), self._along(1, values.shape[1])
        rows, columns = (np.floor(at + 0.5).astype(int) for at in (rows, columns))
        rows, columns = np.clip(rows, 0, values.shape[0] - 1), np.clip(columns, 0, values.shape[1] - 1)
        seen = seen_rows[:, None] & seen_columns
        return np.where(seen, values[rows[:, None], columns], np.asarray(outside, values.dtype))

    def smooth(self, values: Float[np.ndarray, "h w *c"], outside: float) -> Float32[np.ndarray, "H W *c"]:
        """For each pixel of the image the view's values between which it lies, such as logits, interpolated bilinearly
        without those of padding, as `torch.nn.functional.interpolate` does on what is cut out of them; `outside` where
        the view does not show it.

        Args:
            values: of the view, at any resolution.
        """
        found, seen = np.asarray(values, np.float32), []
        for axis in (0, 1):
            at, there = self._along(axis, values.shape[axis])
            low, high = self._shown(axis, values.shape[axis])
            at = np.clip(at, low, high)
            first = np.floor(at).astype(int)
            share = (at - first).astype(np.float32).reshape(-1, *[1] * (found.ndim - 1))
            found = np.moveaxis(found, axis, 0)
            found = found[first] * (1 - share) + found[np.minimum(first + 1, high)] * share
            found, seen = np.moveaxis(found, 0, axis), [*seen, there]
        seen = (seen[0][:, None] & seen[1]).reshape(*self.shape, *[1] * (found.ndim - 2))
        return np.where(seen, found, np.float32(outside))

    def _along(self, axis: int, length: int) -> tuple[Float64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Where the middles of the image's rows (0) or columns (1) lie among so many of the view, counted from the
        middle of its first, and which of them the view shows."""
        if self.placement.degrees:
            raise ValueError("a view that was rotated has no rows of the image")
        middles = np.arange(self.shape[axis]) + 0.5
        at = self.placement._from_source(np.stack([middles, middles], axis=1))[:, 1 - axis]
        side = self.placement.size[axis]
        return at * (length / side) - 0.5, (at >= 0) & (at < side)

    def _shown(self, axis: int, length: int) -> tuple[int, int]:
        """The first and the last of so many rows or columns of the view that show the image."""
        ends = np.array([[0.0, 0.0], self.shape[::-1]])
        low, high = sorted(self.placement._from_source(ends)[:, 1 - axis] * (length / self.placement.size[axis]))
        # An edge is a whole number, but for the rounding of floats.
        first = min(max(math.floor(low + 1e-6), 0), length - 1)
        return first, max(first, min(math.ceil(high - 1e-6), length) - 1)


# How the value of a field is moved to where a placement puts it.
Move = Callable[[Any, Placement], Any]
IMAGE: Mapping[str, Move] = {"image": lambda image, placement: placement.image(image)}


def moved(example: Mapping[str, Any], placement: Placement, moves: Mapping[str, Move] = IMAGE) -> dict[str, Any]:
    """The example with all that lies in the image's plane where the placement puts it; the one place that moves it."""
    return {name: moves[name](value, placement) if name in moves else value for name, value in example.items()}
