"""Encoded images to uint8 RGB arrays."""

import os

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from vit_jax.data.files import read_bytes
from vit_jax.data.image_header import read_header
from vit_jax.errors import UserError

MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 512 * 2**20
# Longest side over shortest. Preprocessing that keeps the aspect ratio makes a line of pixels as long again for each
# pixel of its short side: of 1,000,000x1 pixels in 3 kB it would make 150 GB.
MAX_ASPECT = 250

# For each EXIF orientation: transpose first, then the steps along rows and columns.
_UPRIGHT = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}


class UnreadableImage(UserError):
    """One image that cannot be read; training may step over it, evaluation does not."""


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of an image file.

    Raises:
        UnreadableImage: when it cannot be read, is a pipe or device instead of a file, or is larger than any image that
            `decode` would take.
    """
    try:
        return read_bytes(path, MAX_FILE_BYTES)
    except OSError as error:
        raise UnreadableImage(
            f"{os.fspath(path)} could not be read: {error.strerror or error}", "Check that it exists and may be read"
        ) from error


def decode(image: bytes | str | os.PathLike, name: str | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a JPEG, PNG or WebP image, the first frame if it has several.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB, transparency is put on white, and the EXIF orientation is
    applied. The format is told by the content, not by the file's name.

    Args:
        image: a path or the encoded bytes.
        name: what to call the image in errors, the path by default.

    Raises:
        UnreadableImage: when it cannot be read, is damaged or cut short, or has more than `MAX_PIXELS` pixels; the
            size is read from the header before any memory is set aside for pixels; so are those of which one side is
            more than `MAX_ASPECT` times the other.
    """
    if isinstance(image, bytes):
        data, name = image, name or "The image"
    else:
        data, name = read_file(image), name or os.fspath(image)
    try:
        header = read_header(data)
        if header.height * header.width > MAX_PIXELS:
            raise UnreadableImage(
                f"{name} is {header.width}x{header.height}, more than {MAX_PIXELS // 10**6} megapixels",
                "Scale it down first",
            )
        if max(header.height, header.width) > MAX_ASPECT * min(header.height, header.width):
            raise UnreadableImage(
                f"{name} is {header.width}x{header.height}, one side more than {MAX_ASPECT} times the other", "Crop it"
            )
        pixels = _decode_jpeg(data) if header.format == "jpeg" else _decode_png_or_webp(data, header.transparent)
    except ValueError as error:
        raise UnreadableImage(f"{name} {error}", "Replace or remove it") from error
    return upright(pixels, header.orientation)


def upright(pixels: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image turned and mirrored as an EXIF orientation from 1 to 8 asks for; any other leaves it as it is."""
    transpose, rows, columns = _UPRIGHT.get(orientation, _UPRIGHT[1])
    return np.ascontiguousarray((pixels.transpose(1, 0, 2) if transpose else pixels)[::rows, ::columns])


def on_white(colours: UInt8[np.ndarray, "h w 3"], alpha: UInt8[np.ndarray, "h w 1"]) -> UInt8[np.ndarray, "h w 3"]:
    """Transparency put on white."""
    alpha = alpha.astype(np.uint16)
    # Fits in 16 bits: the weights add up to 255. The 127 rounds to nearest.
    return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise ValueError("is cut short") from error
    # What is left are mostly oddities that every viewer accepts, and so does OpenCV: stray bytes before a marker, rare
    # chroma samplings. Its libjpeg mentions them on stderr.
    return _opencv(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode_png_or_webp(data: bytes, transparent: int | None) -> UInt8[np.ndarray, "h w 3"]:
    # UNCHANGED keeps alpha and 16 bits, and leaves the orientation alone.
    pixels = _opencv(data, cv2.IMREAD_UNCHANGED)
    if transparent is not None and pixels.ndim == 2:
        pixels[pixels == transparent] = np.iinfo(pixels.dtype).max
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if pixels.shape[-1] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return on_white(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB), pixels[..., 3:])


def _opencv(data: bytes, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # for example a WebP whose header says that it is wider than WebP can be
        raise ValueError(f"is damaged: {error.err}") from error
    if pixels is None:
        raise ValueError("is damaged")
    return pixels
