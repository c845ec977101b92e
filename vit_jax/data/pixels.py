"""Images that a program has in memory, as uint8 RGB arrays."""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vit_jax.data.decode import on_white, upright
from vit_jax.errors import UserError

_ORIENTATION = 0x0112  # EXIF's tag


def as_rgb(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    """An image of Pillow's, or an array, as RGB bytes; what is uint8 [H, W, 3] already is returned as it is.

    Args:
        image: a Pillow image of any mode, upright as its EXIF says and on white where it is transparent; or an array
            [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, or of floats from 0 to 1.

    Raises:
        UserError: for another shape or type, and for floats out of range: whether 0 to 255 or normalised values are
            meant, nobody can tell.
    """
    if hasattr(image, "convert") and hasattr(image, "getexif"):
        return upright(_rgb(np.asarray(image.convert("RGBA"))), image.getexif().get(_ORIENTATION, 1))
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4) or not pixels.size:
        first = ", channels last" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        many = "; give one image at a time" if pixels.ndim == 4 else ""
        raise UserError(f"An image is [H, W, 3], this is {list(pixels.shape)}", f"Transpose or convert it{first}{many}")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # a NaN is neither
            raise UserError(
                f"An image of {pixels.dtype} has values from {pixels.min():g} to {pixels.max():g}",
                "Give uint8 from 0 to 255, or floats from 0 to 1",
            )
        pixels = np.round(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise UserError(f"An image is uint8 or floats, this is {pixels.dtype}", "Convert it")
    return _rgb(pixels)


def as_bytes(images: Float[Any, "*n H W 3"]) -> UInt8[np.ndarray, "*n H W 3"]:
    """What a model makes, in 0..1 as far as it keeps to that, on the host."""
    return np.round(255 * np.clip(np.asarray(images), 0, 1)).astype(np.uint8)


def _rgb(pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    return on_white(pixels[..., :3], pixels[..., 3:]) if pixels.shape[-1] == 4 else pixels
