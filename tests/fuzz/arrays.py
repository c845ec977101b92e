"""Damaged npz data sets and IDX files: bytes, headers, types, shapes and values."""

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes
from vit_jax.data.sources import arrays, idx
from vit_jax.data.sources.arrays import ArraySource

_HEADERS = (
    "", "{", "(" * 3000, "{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904,)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (0, -1)}", "{'descr': '|u1', 'fortran_order': None, 'shape': ()}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", "{'descr': '<U999999999', 'fortran_order': False, 'shape': (2,)}",
    "{'descr': '<c16', 'fortran_order': True, 'shape': (2, 3)}", "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (True,)}", "{'descr': '<i8', 'fortran_order': False, 'shape': (" + "1," * 60 + ")}",
    "{'descr': '<f7', 'fortran_order': False, 'shape': (1,)}", "9" * 5000,
)  # fmt: skip


def build(folder: Path) -> Target:
    images, labels = np.arange(4 * 3 * 2 * 3, dtype=np.uint8).reshape(4, 3, 2, 3), np.array([0, 1, 2, 1])

    def mutate(rng: np.random.Generator, case: Path) -> tuple[str, Path]:
        if rng.random() < 0.4:
            return "idx", _idx(rng, case, images[..., 0], labels)
        given = {"images": images, "labels": labels, "label_names": np.array(["a", "b", "c"])}
        for name in list(given):
            if rng.random() < 0.2:
                given[name] = _other(rng, given[name])
            if rng.random() < 0.05:
                del given[name]
        path, buffer = case / "set.npz", io.BytesIO()
        (np.savez if rng.random() < 0.5 else np.savez_compressed)(buffer, **given)
        data = buffer.getvalue()
        if rng.random() < 0.2:
            data = _with_header(rng, data)
        path.write_bytes(damaged_bytes(rng, data) if rng.random() < 0.25 else data)
        return "npz", path

    def use(given: tuple[str, Path]) -> ArraySource:
        kind, path = given
        return arrays.build(str(path)) if kind == "npz" else idx.build("train", str(path))

    def wrong(source: ArraySource) -> str:
        good = all(
            0 <= source[k]["label"] < len(source.label_names) and source[k]["image"].size for k in range(len(source))
        )
        return "" if good else f"labels outside {len(source.label_names)} classes, or no pixels"

    return Target(mutate, use, wrong)


def _other(rng: np.random.Generator, array: np.ndarray) -> Any:
    """Another type, shape or range."""
    match rng.integers(7):
        case 0:
            kind = ["f4", "f8", "c8", "i1", "u8", "?", "S3", "U2", ">i4", "M8[s]"][int(rng.integers(10))]
            return np.zeros(array.shape, kind)
        case 1:
            return np.zeros(array.shape, np.int64) + int(rng.choice([-1, 2**31, 2**62]))
        case 2:
            return array.reshape(-1)[: int(rng.integers(4))]
        case 3:
            return array[..., None]
        case 4:
            return np.asfortranarray(array)
        case 5:
            return array[:0]
    return np.array(array.reshape(-1)[0])


def _with_header(rng: np.random.Generator, data: bytes) -> bytes:
    """One member again under its name, or instead, with a header that lies."""
    header = _HEADERS[int(rng.integers(len(_HEADERS)))].encode()
    version = int(rng.choice([0, 1, 2, 3, 9]))
    length = len(header) if rng.random() < 0.8 else int(rng.integers(2**16))
    member = b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version < 2 else "<I", length) + header + bytes(8)
    buffer, replaced = io.BytesIO(), str(rng.choice(["images.npy", "labels.npy", "label_names.npy"]))
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name != replaced or rng.random() < 0.1:
                new.writestr(name, old.read(name))
        new.writestr(replaced, member)
    changed = bytearray(buffer.getvalue())
    entry = changed.rfind(b"PK\1\2")
    match rng.integers(4):
        case 0:
            at, value = [(8, b"\1\0"), (10, b"\x63\0"), (20, bytes(4)), (24, b"\xff" * 4)][int(rng.integers(4))]
            changed[entry + at : entry + at + len(value)] = value
    return bytes(changed)


def _idx(rng: np.random.Generator, case: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for name, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
        shape = list(array.shape)
        if rng.random() < 0.15:
            shape[int(rng.integers(len(shape)))] = int(rng.choice([0, 1, 2**16, 2**32 - 1]))
        data = (
            struct.pack(f">HBB{len(shape)}I", 0, int(rng.choice([8] * 12 + [9, 13])), len(shape), *shape)
            + array.tobytes()
        )
        data = damaged_bytes(rng, data) if rng.random() < 0.15 else data
        packed = rng.random() < 0.5
        data = gzip.compress(data) if packed else data
        data = damaged_bytes(rng, data) if packed and rng.random() < 0.2 else data
        (case / f"train-{name}-ubyte{'.gz' * packed}").write_bytes(data)
    return case
