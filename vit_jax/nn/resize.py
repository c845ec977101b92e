"""Resizing of small grids with separable weight matrices, so that the sampling convention is explicit."""

import numpy as np
from jaxtyping import Float


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
