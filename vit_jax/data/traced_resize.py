"""`Preprocess.to_uint8` on the device, for images whose size is known only when a program runs.

Traceable with symbolic height and width, so that a program that is exported once prepares images of any size. Positions
are whole numbers, exact for images of up to 20,000 pixels a side; weights are float32. Pillow's filters are rounded
where Pillow rounds; what differs from the host is a rounding of some pixels to the other side, by one level of 255. Of
those that are enlarged by "area" it is an eighth: OpenCV does that in whole numbers of few bits, and where it shrinks
one side and enlarges the other it rounds in between, which is not done here.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from vit_jax.data.preprocess import Preprocess
from vit_jax.data.resample import PRECISION, filter_weight
from vit_jax.errors import UserError

# Of Pillow's filters those that are done here.
_FILTERS = ("bilinear", "bicubic", "lanczos")
_Integer = Int[Array, ""]


def check_traceable(preprocess: Preprocess) -> None:
    """Refuses an interpolation that is done on the host alone, with a UserError."""
    known = ("area", *_FILTERS)
    if preprocess.interpolation not in known:
        raise UserError(
            f"Images are resized by {preprocess.interpolation!r}, which is not done within a program",
            f"Prepare them before it; {', '.join(known)} are done within",
        )


def to_uint8(preprocess: Preprocess, images: UInt8[Array, "B H W 3"]) -> UInt8[Array, "B h w 3"]:
    """Images of any size as `preprocess.to_uint8` makes them, to a level of 255; traced.

    Raises:
        UserError: see `check_traceable`.
    """
    check_traceable(preprocess)
    made = tuple(side + cut for side, cut in zip(preprocess.image_size, preprocess.trim, strict=True))
    old = tuple(jnp.asarray(side, jnp.int32) for side in images.shape[1:3])
    axes = [
        _Axis(preprocess, jnp.arange(images.shape[1 + axis]), size, made[axis], preprocess.image_size[axis])
        for axis, size in enumerate(_size(preprocess, made, old))
    ]
    x = images.astype(jnp.float32)
    if preprocess.interpolation == "area":
        rows, columns = (axis.weights(_area_or_linear) for axis in axes)
        x = jnp.round(_along_rows(rows, _along_columns(columns, x)))
    else:
        weights = functools.partial(_of_filter, preprocess.interpolation)
        rows, columns = (axis.weights(weights) for axis in axes)
        x = _rounded(_along_rows(rows, _rounded(_along_columns(columns, x))))
    if preprocess.resize == "pad":
        inside = axes[0].inside[:, None, None] & axes[1].inside[None, :, None]
        x = jnp.where(inside, x, jnp.asarray(preprocess.filler, jnp.float32))
    return x.astype(jnp.uint8)


def _size(preprocess: Preprocess, made: tuple[int, int], old: tuple[_Integer, _Integer]) -> tuple[_Integer, _Integer]:
    """(height, width) to which an image is resized: the rules of `Preprocess`, in whole numbers."""
    area, to = preprocess.interpolation == "area", preprocess.resize_to
    if preprocess.resize == "squash":
        return tuple(jnp.int32(side) for side in to or made)
    if preprocess.resize == "short_side" and (to or not area):
        short, target = jnp.minimum(*old), to or max(made)
        if area:
            return tuple(jnp.maximum(target, _quotient(side * target, short)) for side in old)
        return tuple(target * side // short for side in old)
    # The side that decides: of the two ratios old / new the larger one where all of the image is to be seen.
    height, width = to or made
    by_height = (old[0] * width >= old[1] * height) == (preprocess.resize == "pad")
    new, of = jnp.where(by_height, height, width), jnp.where(by_height, old[0], old[1])
    if preprocess.anchor == "corner":
        return tuple(jnp.maximum((2 * side * new + of) // (2 * of), 1) for side in old)
    return tuple(jnp.maximum(_quotient(side * new, of), 1) for side in old)


def _quotient(numerator: _Integer, denominator: _Integer | int) -> _Integer:
    """The nearest whole number, of two the even one, as Python rounds."""
    down = numerator // denominator
    twice = 2 * (numerator - down * denominator)
    return down + ((twice > denominator) | ((twice == denominator) & (down % 2 == 1)))


class _Axis:
    """Which samples of a resized axis are kept, and of which old ones they are made.

    Args:
        at: numbers of the image's samples.
        size: of the resized image, traced.
        made: what is left after crop and padding.
        kept: of which so many are kept.
    """

    def __init__(self, preprocess: Preprocess, at: Int[Array, " old"], size: _Integer, made: int, kept: int):
        missing = jnp.maximum(made - size, 0) if preprocess.resize == "pad" else jnp.int32(0)
        before = missing * 0 if preprocess.anchor == "corner" else missing // 2
        left_over = size + missing - made
        rounded = preprocess.crop == "round" and preprocess.interpolation != "area"
        start = _quotient(left_over, 2) if rounded else left_over // 2
        self.at, self.size = at, size
        self.sample = jnp.arange(kept, dtype=jnp.int32) + start - before
        self.inside = (self.sample >= 0) & (self.sample < size)

    def weights(self, rule: Callable[..., Float[Array, "new old"]]) -> Float[Array, "new old"]:
        return rule(self.sample[:, None], self.at, jnp.asarray(self.at.shape[0], jnp.int32), self.size)


def _of_filter(name: str, new: Array, at: Array, old: _Integer, size: _Integer) -> Float[Array, "new old"]:
    """Pillow's weights: the filter is as much wider as the axis shrinks."""
    distance = jnp.abs((2 * new + 1) * old - (2 * at + 1) * size)
    found = filter_weight(distance / (2 * jnp.maximum(old, size)), name)
    found = found / found.sum(axis=1, keepdims=True)
    return jnp.round(found * 2**PRECISION) * 2.0**-PRECISION


def _area_or_linear(new: Array, at: Array, old: _Integer, size: _Integer) -> Float[Array, "new old"]:
    """OpenCV's: the mean over an area where the axis shrinks, between two neighbours where it grows."""
    overlap = jnp.minimum((new + 1) * old, (at + 1) * size) - jnp.maximum(new * old, at * size)
    area = jnp.maximum(overlap, 0) / old
    place = jnp.clip((2 * new + 1) * old - size, 0, 2 * size * (old - 1))
    linear = jnp.maximum(1.0 - jnp.abs(place - 2 * size * at) / (2 * size), 0.0)
    return jnp.where(size < old, area, linear)


def _along_columns(weights: Float[Array, "w W"], x: Float[Array, "B H W 3"]) -> Float[Array, "B H w 3"]:
    return jnp.einsum("bhwc,xw->bhxc", x, weights, precision=jax.lax.Precision.HIGHEST)


def _along_rows(weights: Float[Array, "h H"], x: Float[Array, "B H w 3"]) -> Float[Array, "B h w 3"]:
    return jnp.einsum("bhxc,yh->byxc", x, weights, precision=jax.lax.Precision.HIGHEST)


def _rounded(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Half up, within what a byte holds, as Pillow rounds after each axis."""
    return jnp.clip(jnp.floor(x + 0.5), 0, 255)
