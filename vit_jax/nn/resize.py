"""Bilinear resizing of small grids with separable weight matrices, so that the sampling convention is explicit."""

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


def resize_bilinear(
    grid: Float[np.ndarray, "h w c"], new_hw: tuple[int, int], *, align_corners: bool
) -> Float[np.ndarray, "new_h new_w c"]:
    """Resizes a grid of vectors to `new_hw` (see `linear_weights`); computes in float64, returns the grid's dtype."""
    rows, columns = (linear_weights(old, new, align_corners) for old, new in zip(grid.shape[:2], new_hw, strict=True))
    resized = np.einsum("yh,xw,hwc->yxc", rows, columns, grid.astype(np.float64), optimize=True)
    return resized.astype(grid.dtype)
