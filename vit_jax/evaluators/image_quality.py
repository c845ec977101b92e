"""How near an image is to another: PSNR and SSIM, as scikit-image and the papers of super-resolution compute them."""

import math

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Num, UInt8

SIGMA, WINDOW = 1.5, 11  # of SSIM's Gaussian (Wang et al., 2004), which is cut off at 3.5 standard deviations
_RADIUS = WINDOW // 2
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """The brightness Y of ITU-R BT.601 in its range of 16 to 235, not rounded: what papers compare."""
    return 16 + image.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255)


def psnr(first: Num[np.ndarray, "h w *c"], second: Num[np.ndarray, "h w *c"]) -> float:
    """Peak signal to noise ratio in decibels, of values from 0 to 255; infinite for equal images."""
    error = np.square(first.astype(np.float64) - second).mean()
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(first: Num[np.ndarray, "h w *c"], second: Num[np.ndarray, "h w *c"]) -> float:
    """Structural similarity, the mean over all windows that lie within the image, and over channels.

    Args:
        first: values from 0 to 255, at least `WINDOW` pixels high and wide.
        second: of the same shape.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a, var_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    similar = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return float((similar / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))).mean())


def _blurred(image: Float[np.ndarray, "h w *c"]) -> Float[np.ndarray, "h2 w2 *c"]:
    """A Gaussian mean around every pixel that is far enough from the edges."""
    weights = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / SIGMA) ** 2)
    for axis in (0, 1):
        image = scipy.ndimage.correlate1d(image, weights / weights.sum(), axis=axis)
    return image[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
