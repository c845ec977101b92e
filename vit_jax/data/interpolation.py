"""Resizing as the recipes of training do it: by areas, or by the bilinear and bicubic filters of two worlds.

PyTorch's recipes resize with Pillow, whose filters widen when they shrink an image, so that they average
(`vit_jax.data.resample`). TensorFlow's do not unless they are asked: each new pixel is made of the 2x2 or 4x4 old ones
around it, however many lie between, and aliases. What a model was trained on is part of its recipe.
"""

import functools

import cv2
import numpy as np
import scipy.sparse
from jaxtyping import UInt8

from vit_jax.data import geometry
from vit_jax.data.resample import resample
from vit_jax.errors import UserError
from vit_jax.naming import nearest

INTERPOLATIONS = ("area", "bilinear", "bicubic")


def check_interpolation(interpolation: str, antialias: bool) -> None:
    """
    Raises:
        UserError: when `interpolate` cannot do that.
    """
    if interpolation not in INTERPOLATIONS:
        raise UserError(
            f"There is no interpolation named {interpolation!r}", nearest(str(interpolation), INTERPOLATIONS)
        )
    if not isinstance(antialias, bool):
        raise UserError(f"antialias={antialias!r} is neither True nor False", "Give one of them")
    if interpolation == "area" and not antialias:
        raise UserError(
            "The interpolation 'area' averages, which is what antialias=False is to leave out",
            "Use interpolation='bilinear' or 'bicubic', or leave antialias out",
        )


def interpolate(
    image: geometry.Image, size: tuple[int, int], interpolation: str = "area", antialias: bool = True
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes to (height, width), with pixel centres at half integers.

    Args:
        interpolation: "area" is `geometry.resize`; "bilinear"; or "bicubic", the cubic of Keys with a = -0.5.
        antialias: True is Pillow's, to the bit; False is `tf.image.resize`, rounded to whole levels.
    """
    if interpolation == "area":
        return geometry.resize(image, size)
    if antialias:
        return resample(image, size, interpolation)
    if interpolation == "bilinear":
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    # OpenCV's cubic has a = -0.75.
    rows, columns = (_cubic_taps(old, new) for old, new in zip(image.shape[:2], size, strict=True))
    width = image.shape[1]
    tall = (rows @ image.reshape(image.shape[0], -1).astype(np.float32)).reshape(size[0], width, 3)
    wide = columns @ np.ascontiguousarray(tall.swapaxes(0, 1)).reshape(width, -1)
    values = np.clip(np.rint(wide), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(values.reshape(size[1], size[0], 3).swapaxes(0, 1))


@functools.lru_cache(maxsize=1024)
def _cubic_taps(old: int, new: int) -> scipy.sparse.csr_array:
    """Row i holds the weights of the four old samples around new sample i; those outside are left out of the mean."""
    place = (np.arange(new) + 0.5) * (old / new) - 0.5
    columns = np.floor(place).astype(int)[:, None] + np.arange(-1, 3)
    x, a = np.abs(columns - place[:, None]), -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    inside = (columns >= 0) & (columns < old)
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0)) * inside
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = scipy.sparse.csr_array(
        (weights.astype(np.float32).ravel(), np.clip(columns, 0, old - 1).ravel(), np.arange(0, 4 * new + 1, 4)),
        shape=(new, old),
    )
    matrix.sum_duplicates()
    return matrix
