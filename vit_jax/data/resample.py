"""Resizing as Pillow does it, to the bit: what published PyTorch weights were trained and measured with.

Pillow's filters widen when shrinking, so that they average ("nearest" picks); OpenCV's do not. Each axis is one
product with a sparse matrix of weights in 22-bit fixed point, rounded to uint8 in between. Width comes before height,
as in all versions of Pillow until 2026; later ones turn that round for tall images, which changes some pixels by
1 of 255, and by more beside edges where a filter overshoots.
"""

import functools

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int, UInt8

from vit_jax.data.geometry import check_resized

Image = UInt8[np.ndarray, "h w 3"]

PRECISION = 22  # bits after the point: Pillow's 32 - 8 for the pixel - 2 for weights that overshoot
# Samples to each side that a filter sees.
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0, "box": 0.5, "hamming": 1.0}
FILTERS = (*_SUPPORT, "nearest")
_HAMMING = (float(np.float32(0.54)), float(np.float32(0.46)))  # as Pillow has them


def resample(image: Image, size: tuple[int, int], filter_name: str) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes to (height, width), the bits of `PIL.Image.resize`.

    Args:
        filter_name: one of `FILTERS`; "bicubic" is Keys' with a = -0.5.

    Raises:
        UserError: when the result would have too many pixels.
    """
    height, width = check_resized(image, size)
    if filter_name == "nearest":
        rows, columns = (_nearest(old, new) for old, new in zip(image.shape[:2], size, strict=True))
        return np.ascontiguousarray(image[rows[:, None], columns])
    if width != image.shape[1]:
        image = _apply(_weights(image.shape[1], width, filter_name), image.swapaxes(0, 1)).swapaxes(0, 1)
    if height != image.shape[0]:
        image = _apply(_weights(image.shape[0], height, filter_name), image)
    return np.ascontiguousarray(image)


def _apply(weights: scipy.sparse.csr_array, image: UInt8[np.ndarray, "old b c"]) -> UInt8[np.ndarray, "new b c"]:
    old, *rest = image.shape
    # int32 is enough: the weights of a row sum to 2**22, and their absolute values to less than twice that.
    total = weights @ image.reshape(old, -1).astype(np.int32)
    return np.clip((total + (1 << (PRECISION - 1))) >> PRECISION, 0, 255).astype(np.uint8).reshape(-1, *rest)


def _nearest(old: int, new: int) -> Int[np.ndarray, " new"]:
    """The old sample under the centre of each new one, by adding up steps as Pillow does."""
    scale = old / new
    return np.add.accumulate(np.r_[scale / 2, np.full(new - 1, scale)]).astype(int)


@functools.lru_cache(maxsize=512)  # random crops come in hundreds of sizes
def _weights(old: int, new: int, filter_name: str) -> scipy.sparse.csr_array:
    """Row i holds the weights, in units of 2**-22, of the old samples that make new sample i."""
    scale = old / new
    stretch = max(scale, 1.0)
    support = _SUPPORT[filter_name] * stretch
    centre = ((np.arange(new) + 0.5) * scale)[:, None]
    first = np.maximum((centre - support + 0.5).astype(int), 0)
    last = np.minimum((centre + support + 0.5).astype(int), old)
    columns = first + np.arange((last - first).max())
    inside = columns < last
    weights = filter_weight((columns - centre + 0.5) * (1.0 / stretch), filter_name) * inside
    # One after the other, in the order in which Pillow adds them up.
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]
    values = np.trunc(weights * (1 << PRECISION) + np.copysign(0.5, weights)).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    return scipy.sparse.csr_array((values[inside], columns[inside], starts), shape=(new, old))


def filter_weight(x: Float[np.ndarray, "*n"], name: str) -> Float[np.ndarray, "*n"]:
    """How much a sample counts at a distance of `x` new samples, before weights are made to sum to 1; arrays of NumPy
    or of JAX."""
    xp = x.__array_namespace__()
    if name == "box":  # the only one that is not symmetric: at its edges
        return ((x > -0.5) & (x <= 0.5)).astype(float)
    x = xp.abs(x)
    if name == "bilinear":
        return xp.maximum(1.0 - x, 0.0)
    if name == "hamming":
        return xp.where(x < 1, xp.sinc(x) * (_HAMMING[0] + _HAMMING[1] * xp.cos(np.pi * x)), 0.0)
    if name == "lanczos":
        return xp.where(x < 3, xp.sinc(x) * xp.sinc(x / 3), 0.0)
    a = -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return xp.where(x < 1, near, xp.where(x < 2, far, 0.0))
