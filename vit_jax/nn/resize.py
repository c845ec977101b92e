"""Resizing with separable weight matrices, so that the sampling convention is explicit.

A parameter is resized once, on the host in float64 (`resize_grid`); maps and images of a batch on the device, within
what is compiled (`resize_maps`). Both apply the same matrices.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# "align_corners" is bilinear with the corners of both grids on top of each other; the others have half-pixel centres,
# and are PyTorch's: "half_pixel" its bilinear, "bicubic" and "bicubic_antialias" its two dialects of that, "area" its
# adaptive average, "nearest" its plain nearest, whose samples begin at the corner. "half_pixel_antialias" is its
# bilinear with antialiasing, and the "linear" of `jax.image.resize`.
Resize = Literal[
    "align_corners", "half_pixel", "half_pixel_antialias", "bicubic", "bicubic_antialias", "area", "nearest"
]


def linear_weights(old: int, new: int, align_corners: bool) -> Float[np.ndarray, "new old"]:
    """The matrix that resizes an axis of `old` samples to `new` samples by linear interpolation.

    There is no antialiasing: each output mixes at most two neighbouring inputs.

    Args:
        old: number of input samples.
        new: number of output samples.
        align_corners: True puts the first and last samples of both grids on top of each other, as
            `scipy.ndimage.zoom(order=1)` does. False aligns the outer edges of the samples (half-pixel centres), as
            `jax.image.resize(..., "linear", antialias=False)` does.

    Returns:
        float64 weights; each row sums to 1.
    """
    if align_corners:
        position = np.linspace(0.0, old - 1.0, new)
    else:
        position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0.0, old - 1.0)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(old)))


def triangle_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """The matrix that resizes an axis linearly with half-pixel centres, and when shrinking looks at all inputs: its
    triangle is as much wider, and samples beyond the edge have no weight.

    Returns:
        float64 weights; each row sums to 1.
    """
    centre = (np.arange(new)[:, None] + 0.5) * old / new - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(old) - centre) / max(old / new, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys, 1981), a piecewise polynomial on [-2, 2] that is 1 at 0."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def cubic_weights(old: int, new: int, antialias: bool) -> Float[np.ndarray, "new old"]:
    """The matrix that resizes an axis by cubic convolution with half-pixel centres, as PyTorch does it.

    PyTorch has two dialects: without antialiasing a = -0.75, and samples beyond the edge repeat the one at the edge;
    with it a = -0.5, samples beyond the edge have no weight, and when shrinking the kernel is as much wider.

    Returns:
        float64 weights; each row sums to 1.
    """
    centre = (np.arange(new)[:, None] + 0.5) * old / new - 0.5
    if antialias:
        weights = _keys((np.arange(old) - centre) / max(old / new, 1.0), -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        sample = np.floor(centre) + offset
        index = np.clip(sample, 0, old - 1).astype(int)
        np.add.at(weights, (np.arange(new)[:, None], index), _keys(centre - sample, -0.75))
    return weights


def area_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """The matrix that averages, as PyTorch's adaptive pooling does: output i over the inputs from floor(i old / new) up
    to ceil((i + 1) old / new), which overlap where `new` does not divide `old`.

    Returns:
        float64 weights; each row sums to 1.
    """
    output, sample = np.arange(new)[:, None], np.arange(old)
    within = (sample >= output * old // new) & (sample < -(-(output + 1) * old // new))
    return within / within.sum(axis=1, keepdims=True)


def nearest_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """The matrix that repeats or picks: output i is input floor(i old / new).

    PyTorch has the quotient in float32, and so now and then the input before; this does as it does.

    Returns:
        float64 weights; each row has a single 1.
    """
    index = np.floor(np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))).astype(int)
    return np.eye(old)[np.minimum(index, old - 1)]


def resize_grid(
    grid: Float[np.ndarray, "h w c"], rows: Float[np.ndarray, "new_h h"], columns: Float[np.ndarray, "new_w w"]
) -> Float[np.ndarray, "new_h new_w c"]:
    """Applies one matrix to each axis of a grid of vectors; computes in float64, returns the grid's dtype."""
    resized = np.einsum("yh,xw,hwc->yxc", rows, columns, grid.astype(np.float64), optimize=True)
    return resized.astype(grid.dtype)


def resize_bilinear(
    grid: Float[np.ndarray, "h w c"], new_hw: tuple[int, int], *, align_corners: bool
) -> Float[np.ndarray, "new_h new_w c"]:
    """Resizes a grid of vectors to `new_hw`, see `linear_weights` and `resize_grid`."""
    return resize_grid(
        grid, *(linear_weights(old, new, align_corners) for old, new in zip(grid.shape[:2], new_hw, strict=True))
    )


def resize_bicubic(
    grid: Float[np.ndarray, "h w c"], new_hw: tuple[int, int], *, antialias: bool
) -> Float[np.ndarray, "new_h new_w c"]:
    """Resizes a grid of vectors to `new_hw`, see `cubic_weights` and `resize_grid`."""
    return resize_grid(
        grid, *(cubic_weights(old, new, antialias) for old, new in zip(grid.shape[:2], new_hw, strict=True))
    )


_WEIGHTS: Mapping[Resize, Callable[[int, int], Float[np.ndarray, "new old"]]] = {
    "align_corners": lambda old, new: linear_weights(old, new, align_corners=True),
    "half_pixel": lambda old, new: linear_weights(old, new, align_corners=False),
    "half_pixel_antialias": triangle_weights,
    "bicubic": lambda old, new: cubic_weights(old, new, antialias=False),
    "bicubic_antialias": lambda old, new: cubic_weights(old, new, antialias=True),
    "area": area_weights,
    "nearest": nearest_weights,
}


def resize_maps(
    maps: Float[Array, "*b h w c"], new_hw: tuple[int, int], method: Resize
) -> Float[Array, "*b new_h new_w c"]:
    """Resizes maps or images on the device, to any size up or down; traceable, and so is its gradient.

    The matrices are constants of what is compiled, which `new_hw` therefore is static for. Computes in float32 whatever
    the dtype, which is kept.

    Args:
        method: see `Resize`. "area" and those with "antialias" look at every input; the others skip some when they
            shrink by more than 2.
    """
    hw = maps.shape[-3:-1]
    if hw == tuple(new_hw):
        return maps
    return _applied(maps, *(_WEIGHTS[method](old, new) for old, new in zip(hw, new_hw, strict=True)))


def resample_kernel(
    kernel: Float[Array | np.ndarray, "h w c d"], new_hw: tuple[int, int], method: Resize = "half_pixel"
) -> Float[Array | np.ndarray, "new_h new_w c d"]:
    """The kernel of patches of another size: PI-resize of FlexiViT (arXiv:2212.08013, section 3.4).

    With the pseudo-inverse of the matrix that resizes a patch, tokens of patches that were enlarged by `method` are
    what they were before; of patches that were shrunk they are as close as they can be on average.

    Args:
        kernel: of NumPy for the host, in float64; of JAX for the device, in float32, traceable.
        method: how patches are resized; "half_pixel" is the paper's, "bicubic_antialias" timm's.
    """
    hw = kernel.shape[:2]
    if hw == tuple(new_hw):
        return kernel
    rows, columns = (np.linalg.pinv(_WEIGHTS[method](old, new)).T for old, new in zip(hw, new_hw, strict=True))
    pixels = kernel.reshape(*hw, -1)
    resized = resize_grid(pixels, rows, columns) if isinstance(kernel, np.ndarray) else _applied(pixels, rows, columns)
    return resized.reshape(*new_hw, *kernel.shape[2:])


def _applied(
    maps: Float[Array, "*b h w c"], rows: Float[np.ndarray, "new_h h"], columns: Float[np.ndarray, "new_w w"]
) -> Float[Array, "*b new_h new_w c"]:
    """One matrix on each axis, on the device."""
    (new_height, height), (new_width, width) = rows.shape, columns.shape
    rows, columns = jnp.float32(rows), jnp.float32(columns)
    x, precise = maps.astype(jnp.float32), jax.lax.Precision.HIGHEST  # a TPU would round to bfloat16
    # The axis that shrinks more, or grows less, comes first: less is left to do for the other.
    if new_height * width <= new_width * height:
        x = jnp.einsum("...hwc,yh->...ywc", x, rows, precision=precise)
        x = jnp.einsum("...ywc,xw->...yxc", x, columns, precision=precise)
    else:
        x = jnp.einsum("...hwc,xw->...hxc", x, columns, precision=precise)
        x = jnp.einsum("...hxc,yh->...yxc", x, rows, precision=precise)
    return x.astype(maps.dtype)
