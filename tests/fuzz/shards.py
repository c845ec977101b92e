"""Damaged tar shards, most of them with headers whose checksums are right again."""

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np

from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes
from vit_jax.data.decode import UnreadableImage, decode
from vit_jax.data.sources import webdataset

_BLOCK = 512
_TEXTS = (
    b"a cat",
    b"",
    b"\xff",
    b'{"caption": "a"}',
    b'{"caption": ["a", 3]}',
    b"[" * 10_000,
    b'{"caption": "\\ud800"}',
)


def build(folder: Path) -> Target:
    image = cv2.imencode(".png", np.zeros((3, 4, 3), np.uint8))[1].tobytes()
    whole = {kind: _shard(image, kind) for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)}

    def mutate(rng: np.random.Generator, case: Path) -> str:
        data = whole[int(rng.choice(list(whole)))]
        if rng.random() < 0.3:
            data = damaged_bytes(rng, data)
        changed = bytearray(data)
        for _ in range(int(rng.integers(4)) if len(changed) >= _BLOCK else 0):
            at = int(rng.integers(len(changed) // _BLOCK)) * _BLOCK
            place = at + int(rng.integers(160))  # name, mode, size, checksum, kind
            values = (bytes([int(rng.integers(256))]), b"\x80\0\0\0\x7f", b"\xff" * 12, b"../", b"L", b"x", b"S")
            value = values[int(rng.integers(len(values)))]
            changed[place : place + len(value)] = value
            block = changed[at : at + _BLOCK]
            changed[at + 148 : at + 156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
        path = case / "0.tar"
        path.write_bytes(changed)
        return str(path)

    def use(path: str) -> webdataset.TarSource:
        source = webdataset.build(path)
        for k in range(len(source)):
            try:
                example = source[k]
                decode(example["image"])
                json.dumps(example["text"]).encode()
            except UnreadableImage:  # training replaces it
                continue
        return source

    def wrong(source: webdataset.TarSource) -> str:
        return "" if len(source) else "holds no pair"

    return Target(mutate, use, wrong)


def _shard(image: bytes, kind: int) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=kind) as archive:
        for k, text in enumerate(_TEXTS):
            key = f"{'folder/' * 18 if k == 2 and kind != tarfile.USTAR_FORMAT else ''}{k}"
            for name, content in (
                (f"{key}.png", image),
                (f"{key}.{'json' if text[:1] in (b'{', b'[') else 'txt'}", text),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return data.getvalue()
