"""Image files with the numbers that they hold: TIFF, 16-bit PNG and .npy, of any number of channels and unscaled."""

import itertools

import cv2
import numpy as np
from jaxtyping import Shaped

from vit_jax.data.decode import MAX_ASPECT, MAX_PIXELS, UnreadableImage, opencv, upright, without_animation
from vit_jax.data.image_header import read_header
from vit_jax.data.npz import read_npy
from vit_jax.errors import UserError

_MOST_PAGES = 512
_MOST_NUMBERS = 4 * MAX_PIXELS  # of all channels
# Of a TIFF: the bytes of a value by its type, for those that sizes are written in.
_TIFF_SIZES = {1: 1, 3: 2, 4: 4}


def read_bands(data: bytes, name: str) -> Shaped[np.ndarray, "h w c"]:
    """All channels of an image file, in the order red, green, blue where it has colours, upright as its EXIF says.

    Args:
        data: a PNG, JPEG, WebP or TIFF file, whose pages of one size are channels one after another; or an array as
            `numpy.save` writes it, [H, W] or [H, W, C].
        name: what to call it in errors.

    Raises:
        UnreadableImage: it is damaged, cut short, of another format, or larger than any image that is read.
    """
    if data[:6] == b"\x93NUMPY":
        try:
            pixels = read_npy(data, name)
        except UserError as error:
            raise UnreadableImage(error.what, error.what_to_do) from error
        if pixels.ndim not in (2, 3):
            raise UnreadableImage(f"{name} is an array {list(pixels.shape)}", "Save [H, W] or [H, W, C]")
        return pixels if pixels.ndim == 3 else pixels[..., None]
    try:
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
        header = read_header(data)
        _check_size(header.height, header.width)
        # UNCHANGED leaves the orientation alone too.
        pixels = _channels(opencv(without_animation(data) if b"acTL" in data else data, cv2.IMREAD_UNCHANGED))
    except ValueError as error:
        raise UnreadableImage(f"{name} {error}", "Replace or remove it") from error
    return upright(pixels, header.orientation)


def _channels(pixels: np.ndarray) -> Shaped[np.ndarray, "h w c"]:
    """OpenCV has blue first, and no axis for a single channel."""
    if pixels.ndim == 2:
        return pixels[..., None]
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(pixels.shape[-1])
    return pixels if order is None else np.ascontiguousarray(pixels[..., order])


def _tiff(data: bytes) -> Shaped[np.ndarray, "h w c"]:
    opacity = _check_tiff(data)
    try:
        read, pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"is damaged: {error.err}") from error
    if not read or not pages:
        raise ValueError("is damaged, or packed in a way that OpenCV does not read; an .npy file is always read")
    pages = [_channels(page) for page in pages]
    if len({(page.shape[:2], page.dtype) for page in pages}) > 1:
        raise ValueError("has pages of several sizes or types, which cannot be channels of one image")
    if opacity and pages[0].dtype == np.uint8:
        raise ValueError("has opacity in 8 bits, by which OpenCV multiplies its colours; an .npy file is read as it is")
    return np.concatenate(pages, axis=-1) if len(pages) > 1 else pages[0]


def _check_tiff(data: bytes) -> bool:
    """Walks the directories of all pages (TIFF 6.0, section 2), before any memory is set aside for pixels.

    Returns:
        Whether a page has opacity that its colours are not multiplied by (ExtraSamples 2).
    """
    order = "little" if data[:2] == b"II" else "big"
    numbers, opacity, at, seen = 0, False, int.from_bytes(data[4:8], order), set()
    for page in itertools.count():
        if not at:
            break
        if page == _MOST_PAGES or at in seen or at + 2 > len(data):
            raise ValueError("is damaged, cut short, or has more than 512 pages")
        seen.add(at)
        entries = int.from_bytes(data[at : at + 2], order)
        sizes = {256: 0, 257: 0, 277: 1, 338: 0}
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind = (int.from_bytes(data[entry + k : entry + k + 2], order) for k in (0, 2))
            if tag in sizes and kind in _TIFF_SIZES:
                sizes[tag] = int.from_bytes(data[entry + 8 : entry + 8 + _TIFF_SIZES[kind]], order)
        width, height, samples, extra = sizes.values()
        _check_size(height, width)
        numbers, opacity = numbers + height * width * samples, opacity or extra == 2
        if numbers > _MOST_NUMBERS:
            raise ValueError(f"has more than {_MOST_NUMBERS // 10**6} million numbers")
        after = at + 2 + 12 * entries
        at = int.from_bytes(data[after : after + 4], order)
    if not numbers:
        raise ValueError("has no page")
    return opacity


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError("has no size in its header")
    if height * width > MAX_PIXELS:
        raise ValueError(f"is {width}x{height}, more than {MAX_PIXELS // 10**6} megapixels")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"is {width}x{height}, one side more than {MAX_ASPECT} times the other")
