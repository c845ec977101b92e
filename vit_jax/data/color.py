"""Colour operations of the contrastive papers on uint8 images, with their factors as arguments.

They are torchvision's on uint8, fractions dropped as there, so that recipes published for it keep their meaning.
RandAugment's operations of the same names are TensorFlow's and differ.
"""

import cv2
import numpy as np
from jaxtyping import UInt8

from vit_jax.data.geometry import Image

_LUMA = np.float32([0.2989, 0.587, 0.114])  # BT.601 in the digits that both libraries use
_LEVELS = np.arange(256, dtype=np.float32)


def luma(image: Image) -> UInt8[np.ndarray, "h w"]:
    """The grey value of each pixel."""
    return cv2.transform(image.astype(np.float32), _LUMA[None]).astype(np.uint8)


def grayscale(image: Image) -> Image:
    """The same image without colour, in three equal channels."""
    return cv2.cvtColor(luma(image), cv2.COLOR_GRAY2RGB)


def brightness(image: Image, factor: float) -> Image:
    """Every value times `factor`: 0 is black, 1 the image itself."""
    return cv2.LUT(image, _table(_LEVELS * np.float32(factor)))


def contrast(image: Image, factor: float) -> Image:
    """Values moved from the mean grey (factor 0) through the image (1) and beyond."""
    mean = luma(image).mean(dtype=np.float64)
    return cv2.LUT(image, _table(np.float32(factor) * _LEVELS + np.float32((1 - factor) * mean)))


def saturation(image: Image, factor: float) -> Image:
    """From the grey image (factor 0) through the image (1) and beyond."""
    # What has no colour must not lose a level to the last bit of a float32.
    mixed = cv2.addWeighted(image, factor, grayscale(image), 1 - factor, 1e-3, dtype=cv2.CV_32F)
    return np.clip(mixed, 0, 255, out=mixed).astype(np.uint8)


def hue(image: Image, turn: float) -> Image:
    """Turns the hue of each pixel by `turn` of the colour circle, from -0.5 to 0.5; value and saturation stay."""
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
    return (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * np.float32(255.999)).astype(np.uint8)


def solarize(image: Image, threshold: int = 128) -> Image:
    """Inverts the values of `threshold` and above."""
    return cv2.LUT(image, np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS).astype(np.uint8))


def gaussian_blur(image: Image, sigma: float, size: int) -> Image:
    """Blurs with a Gaussian of `sigma` pixels, cut off to an odd number of `size` taps; edges are reflected."""
    taps = cv2.getGaussianKernel(size, sigma)
    return cv2.sepFilter2D(image, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101)


def _table(values: np.ndarray) -> UInt8[np.ndarray, " 256"]:
    return np.clip(values, 0, 255).astype(np.uint8)
