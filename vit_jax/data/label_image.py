"""Images whose pixels are labels or measurements: palette and grey PNGs, of 1 to 16 bits, to the numbers they store."""

import zlib

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16

from vit_jax.data.decode import MAX_PIXELS, UnreadableImage
from vit_jax.data.image_header import read_header

_GREY, _PALETTE = 0, 3  # colour types of PNG


def decode_labels(data: bytes, name: str) -> UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]:
    """The stored number of each pixel: of a palette image the index, not the colour; of a grey one its level, unscaled.

    Args:
        data: an encoded PNG.
        name: what to call the image in errors.

    Raises:
        UnreadableImage: when it is damaged, another format or an image in colours, or has too many pixels.
    """
    try:
        header = read_header(data)
        if header.format != "png":
            raise ValueError(f"is a {header.format.upper()}, whose pixels are not exact")
        if header.height * header.width > MAX_PIXELS:
            raise ValueError(f"has more than {MAX_PIXELS // 10**6} megapixels")
        depth, kind = data[24], data[25]
        if kind not in (_GREY, _PALETTE):
            raise ValueError("is in colours, not grey or with a palette")
        pixels = _decode(data)
    except ValueError as error:
        raise UnreadableImage(f"{name} {error}", "Give labels as a palette or grey PNG") from error
    # Levels of few bits come stretched to 0..255.
    return pixels // (255 // (2**depth - 1)) if depth < 8 else pixels


def _decode(data: bytes) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(_as_grey(data), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"is damaged: {error.err}") from error
    if pixels is None or pixels.ndim != 2:
        raise ValueError("is damaged")
    return pixels


def _as_grey(data: bytes) -> bytes:
    """The same PNG without palette and transparency, so that a decoder leaves the indices alone.

    Indices and grey levels are stored alike (PNG specification, section 7.2), and `read_header` has checked the chunks.
    """
    kept, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind, chunk = data[at + 4 : at + 8], data[at:end]
        if kind == b"IHDR":
            body = chunk[4:17] + bytes([_GREY]) + chunk[18:21]
            chunk = chunk[:4] + body + zlib.crc32(body).to_bytes(4, "big")
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(chunk)
        at = end
        if kind == b"IEND":
            break
    return b"".join(kept)
