"""Encoded images to uint8 RGB arrays."""

import os

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from vit_jax.data.files import read_bytes
from vit_jax.data.image_header import Header, read_header
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


class EncodedImage:
    """A JPEG, PNG or WebP image, the first frame if it has several, that is decoded when pixels are asked for.

    `image[top:bottom, left:right]` are those of a part, as they are in the whole: uint8 [h, w, 3]. Grey, palette, CMYK
    and 16-bit images become 8-bit RGB, transparency is put on white, and the EXIF orientation is applied. The format is
    told by the content, not by the file's name.

    Args:
        image: a path or the encoded bytes.
        name: what to call the image in errors, the path by default.

    Raises:
        UnreadableImage: when it cannot be read, or has more than `MAX_PIXELS` pixels; the size is read from the header
            before any memory is set aside for pixels; so are those of which one side is more than `MAX_ASPECT` times
            the other. While decoding: when it is damaged or cut short.
    """

    def __init__(self, image: bytes | str | os.PathLike, name: str | None = None):
        if isinstance(image, bytes):
            self._data, self._name = image, name or "The image"
        else:
            self._data, self._name = read_file(image), name or os.fspath(image)
        try:
            header = read_header(self._data)
        except ValueError as error:
            raise UnreadableImage(f"{self._name} {error}", "Replace or remove it") from error
        size = f"{self._name} is {header.width}x{header.height}"
        if header.height * header.width > MAX_PIXELS:
            raise UnreadableImage(f"{size}, more than {MAX_PIXELS // 10**6} megapixels", "Scale it down first")
        if max(header.height, header.width) > MAX_ASPECT * min(header.height, header.width):
            raise UnreadableImage(f"{size}, one side more than {MAX_ASPECT} times the other", "Crop it")
        self._header = header

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3), upright."""
        height, width = self._header.height, self._header.width
        return (width, height, 3) if _upright(self._header.orientation)[0] else (height, width, 3)

    def __getitem__(self, part: tuple[slice, slice]) -> UInt8[np.ndarray, "h w 3"]:
        rows, columns = (range(*of.indices(side)) for of, side in zip(part, self.shape, strict=False))
        transpose, *steps = _upright(self._header.orientation)
        # From the upright image to the stored one: mirrored back first, and then transposed back.
        rows, columns = (
            of if step == 1 else range(side - of.stop, side - of.start)
            for of, step, side in zip((rows, columns), steps, self.shape, strict=False)
        )
        if transpose:
            rows, columns = columns, rows
        try:
            pixels = self._lines(rows.stop)
        except ValueError as error:
            raise UnreadableImage(f"{self._name} {error}", "Replace or remove it") from error
        return upright(pixels[rows.start : rows.stop, columns.start : columns.stop], self._header.orientation)

    def with_opacity(self) -> UInt8[np.ndarray, "h w 4"]:
        """All pixels, transparency not put on white but in a fourth channel, 255 where there is none."""
        if self._header.format == "jpeg":
            pixels = self[:, :]
        else:
            try:
                pixels = _decode_png_or_webp(self._data, self._header.transparent)
            except ValueError as error:
                raise UnreadableImage(f"{self._name} {error}", "Replace or remove it") from error
            pixels = upright(pixels, self._header.orientation)
        opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        return pixels if pixels.shape[-1] == 4 else np.concatenate([pixels, opaque], axis=-1)

    def _lines(self, stop: int) -> UInt8[np.ndarray, "h w 3"]:
        """The stored image up to the line `stop`, or more of it."""
        if self._header.format != "jpeg":
            pixels = _decode_png_or_webp(self._data, self._header.transparent)
            return pixels if pixels.shape[-1] == 3 else on_white(pixels[..., :3], pixels[..., 3:])
        pixels = _decode_jpeg_lines(self._data, self._header, stop)
        return _decode_jpeg(self._data) if pixels is None else pixels


def decode(image: bytes | str | os.PathLike, name: str | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """All pixels of an `EncodedImage`."""
    return EncodedImage(image, name)[:, :]


def decode_rgba(data: bytes, name: str) -> UInt8[np.ndarray, "h w 4"]:
    """All pixels of an encoded image with their opacity in the last channel: 255 throughout where it has none.

    Args:
        name: what to call the image in errors.

    Raises:
        UnreadableImage: as `EncodedImage` does.
    """
    return EncodedImage(data, name).with_opacity()


def upright(pixels: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image turned and mirrored as an EXIF orientation from 1 to 8 asks for; any other leaves it as it is."""
    transpose, rows, columns = turn = _upright(orientation)
    if turn == _UPRIGHT[1]:
        return pixels
    return np.ascontiguousarray((pixels.transpose(1, 0, 2) if transpose else pixels)[::rows, ::columns])


def _upright(orientation: int) -> tuple[bool, int, int]:
    return _UPRIGHT.get(orientation, _UPRIGHT[1])


def on_white(colours: UInt8[np.ndarray, "h w 3"], alpha: UInt8[np.ndarray, "h w 1"]) -> UInt8[np.ndarray, "h w 3"]:
    """Transparency put on white."""
    alpha = alpha.astype(np.uint16)
    # Fits in 16 bits: the weights add up to 255. The 127 rounds to nearest.
    return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _decode_jpeg_lines(data: bytes, header: Header, stop: int) -> UInt8[np.ndarray, "h w 3"] | None:
    """The lines of a JPEG up to `stop` and a few more, with the bits that they have in the whole.

    What lies below is left out by handing over a header that says that the image ends there. What lies above and beside
    has to be read even so, to know where its code ends; libjpeg-turbo can spare it the steps after that, but simplejpeg
    has no argument for it.

    Returns:
        None where only the decoding of the whole can tell what there is: also when the file is cut short, wherever.
    """
    lines = stop + 2  # the colours of a line are interpolated with those below
    if header.lines_at is None or lines >= header.height:
        return None
    shorter = b"".join((data[: header.lines_at], lines.to_bytes(2, "big"), data[header.lines_at + 2 :]))
    pixels = np.empty((lines, header.width, 3), np.uint8)
    try:
        found = simplejpeg.decode_jpeg(shorter, "RGB", buffer=pixels, strict=True)
    except ValueError as error:
        # The first complaint is told. That other bytes come before the file's end (0xd9) was to be expected, and is
        # said when all lines are there.
        return pixels if "extraneous bytes before marker 0xd9" in str(error) else None
    return found if found.shape == pixels.shape else None


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise ValueError("is cut short") from error
    # What is left are mostly oddities that every viewer accepts, and so does OpenCV: stray bytes before a marker, rare
    # chroma samplings. Its libjpeg mentions them on stderr.
    return opencv(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode_png_or_webp(data: bytes, transparent: int | None) -> UInt8[np.ndarray, "h w c"]:
    """Three channels, or with opacity four."""
    # UNCHANGED keeps alpha and 16 bits, and leaves the orientation alone.
    pixels = opencv(without_animation(data) if b"acTL" in data else data, cv2.IMREAD_UNCHANGED)
    if transparent is not None and pixels.ndim == 2:
        pixels[pixels == transparent] = np.iinfo(pixels.dtype).max
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if pixels.shape[-1] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)


def without_animation(data: bytes) -> bytes:
    """An animated PNG as its first frame alone: OpenCV 5.0 crashes on damaged ones (segmentation fault)."""
    if data[1:4] != b"PNG":
        return data
    kept, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"acTL", b"fcTL", b"fdAT"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def opencv(data: bytes, flags: int) -> np.ndarray:
    """What OpenCV decodes.

    Raises:
        ValueError: with a reason that completes "the file ...".
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # for example a WebP whose header says that it is wider than WebP can be
        raise ValueError(f"is damaged: {error.err}") from error
    if pixels is None:
        raise ValueError("is damaged")
    return pixels
