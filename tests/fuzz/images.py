"""Damaged JPEG, PNG and WebP files, read and prepared as training and evaluation do: flipped bytes, and files whose
structure is whole but whose sizes, EXIF, transparency, palettes and chunks are lies."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes
from vit_jax.data.decode import EncodedImage, decode
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.transforms import supervised

_SIZES = (0, 1, 2, 3, 250, 251, 16383, 16384, 32767, 65535, 2**20, 2**24 - 1, 2**31 - 1, 2**32 - 1)


def build(folder: Path) -> Target:
    rng = np.random.default_rng(0)
    image = Image.fromarray(cv2.resize(rng.integers(0, 256, (8, 12, 3), np.uint8), (96, 64)))
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = [
        _saved(image, "JPEG", exif=exif),
        _saved(image, "JPEG", progressive=True),
        _saved(image.convert("CMYK"), "JPEG"),
        _saved(image.convert("L"), "JPEG"),
        _saved(image, "PNG", exif=exif),
        _saved(image.convert("RGBA"), "PNG"),
        _saved(image.convert("L"), "PNG", transparency=7),
        _saved(image.convert("LA"), "PNG"),
        _saved(image.convert("1"), "PNG"),
        _saved(image.quantize(16), "PNG", transparency=bytes(range(16))),
        _saved(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
        cv2.imencode(".png", np.asarray(image).astype(np.uint16) * 257)[1].tobytes(),
        _saved(image, "WEBP", exif=exif),
        _saved(image.convert("RGBA"), "WEBP", lossless=True),
        _saved(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
    ]
    evaluate = Preprocess(32, resize="short_side")
    train = supervised.build(32)

    def mutate(rng: np.random.Generator, folder: Path) -> bytes:
        data = whole[int(rng.integers(len(whole)))]
        if rng.random() < 0.4:
            return damaged_bytes(rng, data)
        if data[:2] == b"\xff\xd8":
            data = _lying_jpeg(rng, data)
        else:
            data = _lying_png(rng, data) if data[:4] == b"\x89PNG" else _lying_webp(rng, data)
        return damaged_bytes(rng, data) if rng.random() < 0.1 else data

    def use(data: bytes) -> list[np.ndarray]:
        image = decode(data)
        top = EncodedImage(data)[: max(len(image) // 2, 1), :]
        assert np.array_equal(top, image[: len(top)]), "a part is not what it is in the whole"
        view = train({"image": image}, np.random.default_rng(0))["image"]
        return [image, evaluate.to_uint8(image), view]

    def wrong(images: list[np.ndarray]) -> str:
        good = all(x.dtype == np.uint8 and x.ndim == 3 and x.shape[2] == 3 and x.size for x in images)
        return "" if good else f"decoded to {[(x.dtype, x.shape) for x in images]}"

    return Target(mutate, use, wrong)


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _size(rng: np.random.Generator, most: int) -> int:
    return min(int(rng.choice(_SIZES)) if rng.random() < 0.6 else int(rng.integers(1, 300)), most)


def _lying_jpeg(rng: np.random.Generator, data: bytes) -> bytes:
    changed = bytearray(data)
    if rng.random() < 0.6:
        frame = max(changed.find(b"\xff\xc0"), changed.find(b"\xff\xc2"))
        changed[frame + 5 : frame + 9] = struct.pack(">HH", _size(rng, 65535), _size(rng, 65535))
        if rng.random() < 0.2:
            changed[frame + 4] = int(rng.choice([0, 8, 12, 16]))
        return bytes(changed)
    body = b"Exif\0\0" + _lying_exif(rng)
    length = len(body) + 2 if rng.random() < 0.8 else int(rng.integers(65536))
    return data[:2] + b"\xff\xe1" + struct.pack(">H", length) + body + data[2:]


def _lying_exif(rng: np.random.Generator) -> bytes:
    order = str(rng.choice(["<", ">"]))
    kinds, counts = rng.integers(0, 14, 4), rng.choice([0, 1, 2, 65535], 4)
    values = rng.choice([0, 1, 6, 8, 9, 65535], 4)
    entries = b"".join(
        struct.pack(f"{order}HHIHH", int(rng.choice([0x0112, 0x8769])), int(k), int(c), int(v), 0)
        for k, c, v in zip(kinds, counts, values, strict=True)
    )
    start = int(rng.choice([8, 0, 2, 4, 2**31, 2**32 - 1]))
    count = int(rng.choice([4, 0, 1, 65535]))
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", start, count) + entries


def _lying_png(rng: np.random.Generator, data: bytes) -> bytes:
    """Chunks with right sums and wrong content, order or number."""
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(int(rng.integers(1, 4))):
        k = int(rng.integers(len(chunks)))
        match rng.integers(7):
            case 0:
                kind, body = chunks[0]
                chunks[0] = (kind, struct.pack(">II", _size(rng, 2**32 - 1), _size(rng, 2**32 - 1)) + body[8:])
            case 1:
                kind, body = chunks[0]
                depth, colour = int(rng.choice([0, 1, 2, 4, 8, 16])), int(rng.choice([0, 2, 3, 4, 6, 9]))
                chunks[0] = (kind, body[:8] + bytes([depth, colour]) + body[10:])
            case 2:
                kind = bytes(
                    rng.choice([b"tRNS", b"PLTE", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"zTXt", b"IDAT", b"abcd"])
                )
                body = [rng.bytes(int(rng.integers(0, 40))), _lying_exif(rng), b"x\0\0" + zlib.compress(bytes(10**6))]
                chunks.insert(k, (kind, body[int(rng.integers(3))]))
            case 3:
                del chunks[k]
                chunks = chunks or [(b"IEND", b"")]
            case 4:
                chunks.append(chunks[k])
            case 5:
                chunks[k] = (chunks[k][0], damaged_bytes(rng, chunks[k][1]))
            case 6:
                chunks[k] = (chunks[k][0], zlib.compress(bytes(int(rng.integers(1, 10**6)))))
    parts = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return data[:8] + b"".join(parts)


def _lying_webp(rng: np.random.Generator, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 3))):
        kind = bytes(rng.choice([b"VP8X", b"VP8L", b"VP8 ", b"ANMF", b"EXIF"]))
        if (at := changed.find(kind)) < 0:
            continue
        body = at + 8
        match rng.integers(3):
            case 0:
                width, height = (_size(rng, 2**24 - 1).to_bytes(3, "little") for _ in range(2))
                changed[body + 4 : body + 10] = width + height
            case 1:
                changed[at + 4 : at + 8] = struct.pack("<I", _size(rng, 2**32 - 1))
            case 2:
                changed[body : body + 4] = rng.bytes(4)
    return bytes(changed)
