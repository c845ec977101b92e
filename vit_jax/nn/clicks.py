"""Prompts from masks: a click into a region and a box around it, as pure functions of a mask and of chance.

Chance comes as numbers drawn evenly from [0, 1), so that a caller draws all it needs at once: compiling a generator
takes longer than all the rest.

All work on one mask [h, w] and are meant for `jax.vmap`. Coordinates are continuous pixels of the mask, x to the right
and y down: pixel (row, column) spans [column, column + 1) and [row, row + 1), so that a click lies at its centre.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float, Int


def uniform_click(chance: Float[Array, ""], region: Bool[Array, "h w"]) -> Float[Array, "2"]:
    """The centre (x, y) of a pixel of the region, each with equal odds; of an empty one that of the first pixel."""
    counted = jnp.cumsum(region.ravel())
    # Rounding must not lead beyond the last one.
    number = jnp.minimum((chance * counted[-1]).astype(jnp.int32), counted[-1] - 1)
    return _centre(jnp.argmax(counted > number), region.shape[1])


def central_click(region: Bool[Array, "h w"]) -> Float[Array, "2"]:
    """The centre (x, y) of the pixel that is farthest from what is outside; the first one of several."""
    return highest(squared_depth(region))


def highest(values: Int[Array, "h w"]) -> Float[Array, "2"]:
    """The centre (x, y) of the pixel with the largest value, the first one of several."""
    return _centre(jnp.argmax(values), values.shape[1])


def squared_depth(region: Bool[Array, "h w"]) -> Int[Array, "h w"]:
    """The squared distance of each pixel of the region to the nearest pixel outside, 0 for those outside; exact.

    All beyond the image's edge is outside. Felzenszwalb and Huttenlocher, "Distance transforms of sampled functions"
    (2012): distances along rows first, then the least over the rows. A row at a time, so that memory is that of a mask.
    """
    height, width = region.shape
    columns, rows = jnp.arange(width), jnp.arange(height)[:, None]
    before = jax.lax.cummax(jnp.where(region, -1, columns), axis=1)
    after = jax.lax.cummin(jnp.where(region, width, columns), axis=1, reverse=True)
    along = jnp.square(jnp.minimum(columns - before, after - columns))

    def nearer(row: Int[Array, ""], least: Int[Array, "h w"]) -> Int[Array, "h w"]:
        return jnp.minimum(least, jnp.square(rows - row) + along[row])

    edge = jnp.square(jnp.minimum(rows + 1, height - rows))
    return jax.lax.fori_loop(0, height, nearer, jnp.broadcast_to(edge, region.shape))


def box_around(region: Bool[Array, "h w"]) -> Float[Array, "4"]:
    """(left, top, right, bottom) of the region's outermost edges; zeros for an empty one."""
    ends = []
    for axis, size in ((0, region.shape[1]), (1, region.shape[0])):
        there = region.any(axis)
        ends.append((jnp.argmax(there), jnp.where(there.any(), size - jnp.argmax(there[::-1]), 0)))
    (left, right), (top, bottom) = ends
    return jnp.stack([left, top, right, bottom]).astype(jnp.float32)


def loose_box(
    chance: Float[Array, "4"],
    box: Float[Array, "4"],
    size: tuple[int, int] | Float[Array, "2"],
    share: float,
    most: float,
) -> Float[Array, "4"]:
    """A box as a person draws it: each coordinate is off by normal noise, and stays within the image.

    Args:
        chance: of each coordinate.
        size: (height, width) of the image.
        share: standard deviation, as a share of the box's side in this direction.
        most: pixels that a coordinate is off at most.
    """
    sides = jnp.tile(box[2:] - box[:2], 2)
    noise = jnp.clip(share * sides * ndtri(jnp.maximum(chance, 1e-7)), -most, most)
    moved = jnp.clip(box + noise, 0, jnp.stack([size[1], size[0]] * 2))
    return jnp.concatenate([jnp.minimum(moved[:2], moved[2:]), jnp.maximum(moved[:2], moved[2:])])


def rim(region: Bool[Array, "h w"], width: int) -> Bool[Array, "h w"]:
    """The region's pixels that have one outside, or the image's edge, at most `width` pixels away in either direction.

    Cheng et al., "Boundary IoU" (arXiv:2103.16562), whose boundary is what erosion by so many steps takes away.
    """
    side = 2 * width + 1
    padded = jnp.pad(region, width)
    inner = jax.lax.reduce_window(padded, True, jnp.logical_and, (side, side), (1, 1), "VALID")
    return region & ~inner


def _centre(flat: Int[Array, ""], width: int) -> Float[Array, "2"]:
    return jnp.stack([flat % width, flat // width]) + jnp.float32(0.5)
