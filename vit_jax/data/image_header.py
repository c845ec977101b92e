"""What an image file says about itself before anything is decoded: format, size, orientation, completeness.

Sizes come from here so that a few bytes that announce a gigantic image are refused before memory is asked for, and
completeness so that a file cut short is an error rather than a half grey picture.
"""

import zlib
from typing import NamedTuple


class Header(NamedTuple):
    """What to know before decoding.

    Args:
        format: "jpeg", "png" or "webp".
        height: in pixels as stored, like `width`.
        orientation: of EXIF (1..8, 1 is upright), still to be applied.
        transparent: for a grey PNG that calls one grey level transparent (its tRNS chunk), that level, in 8 bits, or
            in 16 where the image has so many; decoders pass over it. Otherwise None.
        lines_at: for a JPEG that stores its lines from top to bottom and is decoded to RGB as it is (sequential, 8
            bits, grey or three colours), where its number of lines stands, in two bytes: a decoder that finds less
            there stops earlier. Otherwise None.
    """

    format: str
    height: int
    width: int
    orientation: int
    transparent: int | None = None
    lines_at: int | None = None


# How other formats begin, where, and what they are: files that people take for images, and that are, elsewhere.
_OTHERS = (
    (b"II*\0", 0, "TIFF"), (b"MM\0*", 0, "TIFF"), (b"BM", 0, "BMP"), (b"GIF8", 0, "GIF"), (b"\xff\x0a", 0, "JPEG XL"),
    (b"ftyphei", 4, "HEIC"), (b"ftypmif1", 4, "HEIC"), (b"ftypavif", 4, "AVIF"), (b"JXL ", 4, "JPEG XL"),
    (b"version https://git-lfs", 0, "a pointer of Git LFS: fetch the file itself"), (b"<", 0, "a page of text"),
)  # fmt: skip


def read_header(data: bytes) -> Header:
    """Reads the header of a JPEG, PNG or WebP file.

    Raises:
        ValueError: with a reason that completes "the file ...", when it is another format or is damaged.
    """
    if data[:2] == b"\xff\xd8":
        header = _jpeg(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        header = _png(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        header = _webp(data)
    else:
        other = next((name for start, at, name in _OTHERS if data[at : at + len(start)] == start), "")
        is_other = f", but {other}" if other else ""
        raise ValueError(f"is not a JPEG, PNG or WebP image{is_other}" if data else "is empty")
    if header.height < 1 or header.width < 1:
        raise ValueError("has no size in its header")
    return header


def _jpeg(data: bytes) -> Header:
    """Walks the marker segments (ITU T.81 annex B) up to the frame header."""
    orientation, at = 1, 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 9 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # stuffing, fill, and markers without a payload
            at += 1
            continue
        if marker in (0xD9, 0xDA):
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[at + k : at + k + 2], "big") for k in (5, 7))
            plain = marker in (0xC0, 0xC1) and data[at + 4] == 8 and data[at + 9 : at + 10] in (b"\1", b"\3")
            return Header("jpeg", height, width, orientation, lines_at=at + 5 if plain else None)
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[at + 10 : end])
        at = end
    raise ValueError("has no JPEG frame header")


def _png(data: bytes) -> Header:
    """Walks all chunks (PNG specification section 5), checking the sums of those that pixels depend on."""
    height = width = depth = 0
    orientation, transparent, is_grey, at = 1, None, False, 8
    while True:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            raise ValueError("is cut short")
        if kind[0] < 0x60 and zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise ValueError("is damaged: a checksum does not match")
        if (at == 8) != (kind == b"IHDR"):
            raise ValueError("is damaged: it has a chunk before its header, or two headers")
        if kind == b"IHDR":
            if length != 13:
                raise ValueError("is damaged: its header has another length")
            width, height = (int.from_bytes(data[at + k : at + k + 4], "big") for k in (8, 12))
            depth, is_grey = data[at + 16], data[at + 17] == 0
        elif kind == b"tRNS" and is_grey and length == 2 and depth in (1, 2, 4, 8, 16):
            level = int.from_bytes(data[at + 8 : at + 10], "big") & (2**depth - 1)
            transparent = level if depth == 16 else level * 255 // (2**depth - 1)
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[at + 8 : end - 4])
        elif kind == b"IEND":
            return Header("png", height, width, orientation, transparent)
        at = end


def _webp(data: bytes) -> Header:
    """Walks the RIFF chunks (RFC 9649)."""
    if 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise ValueError("is cut short")
    height = width = 0
    orientation, at = 1, 12
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = at + 8
        if kind == b"VP8X":
            size = [1 + int.from_bytes(data[body + k : body + k + 3], "little") for k in (4, 7)]
        elif kind == b"VP8L":
            bits = int.from_bytes(data[body + 1 : body + 5], "little")
            size = [1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)]
        elif kind == b"VP8 ":
            size = [int.from_bytes(data[body + k : body + k + 2], "little") & 0x3FFF for k in (6, 8)]
        else:
            size = [0, 0]
        width, height = max(width, size[0]), max(height, size[1])
        if kind == b"EXIF":
            orientation = _exif_orientation(data[body : body + length].removeprefix(b"Exif\0\0"))
        at = body + length + length % 2
    return Header("webp", height, width, orientation)


def _exif_orientation(tiff: bytes) -> int:
    """The orientation tag (0x0112) of an EXIF block, 1 where there is none."""
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return 1
    directory = int.from_bytes(tiff[4:8], order)
    entries = int.from_bytes(tiff[directory : directory + 2], order)
    first = directory + 2
    for at in range(first, min(first + 12 * entries, len(tiff) - 11), 12):
        if int.from_bytes(tiff[at : at + 2], order) == 0x0112:
            # A value shorter than the four bytes lies at their start: that the tag is a SHORT (3), as the standard
            # has it, or a LONG (4), as some write it, makes a difference in big-endian files.
            size = {3: 2, 4: 4}.get(int.from_bytes(tiff[at + 2 : at + 4], order), 0)
            value = int.from_bytes(tiff[at + 8 : at + 8 + size], order)
            return value if 1 <= value <= 8 else 1
    return 1
