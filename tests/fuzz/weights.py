"""Damaged .safetensors and .npz files of tiny models: bytes, headers, names, shapes, dtypes, values."""

import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np

from tests.fuzz import models
from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes, damaged_json
from vit_jax.checkpoints.npz import NpzFile
from vit_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from vit_jax.checkpoints.source import open_source

_DTYPES = ("float64", "float16", ">f4", "int8", "int64", "bool", "complex64", "U3", "S2", "M8[s]", "V6", "O")
_VALUES = (np.nan, np.inf, -np.inf, 1e300, 3e38, 0.0)
_NAMES = (
    "x",
    "",
    "\0",
    "../x",
    "a" * 5000,
    "blocks.100000000.norm1.weight",
    "é\n\x1b[31m",
    "Transformer/encoderblock_99/x",
)


def build(folder: Path) -> Target:
    whole = {}
    for name, file in models.write_all(folder).items():
        opened = NpzFile(file) if file.suffix == ".npz" else SafetensorsFile(file)
        whole[name] = file, file.read_bytes(), {tensor: opened[tensor].copy() for tensor in opened.shapes}

    def mutate(rng: np.random.Generator, folder: Path) -> Path:
        file, data, tensors = whole[str(rng.choice(list(whole)))]
        target = folder / file.name
        for path in file.parent.glob("*.json"):
            if rng.random() < 0.7:
                os.link(path, folder / path.name)
        match rng.integers(4):
            case 0:
                target.write_bytes(damaged_bytes(rng, data))
            case 1 if file.suffix == ".safetensors":
                (length,) = struct.unpack("<Q", data[:8])
                header = damaged_json(rng, json.loads(data[8 : 8 + length]))
                said = len(header) if rng.random() < 0.9 else int(rng.integers(2**62))
                target.write_bytes(struct.pack("<Q", said) + header + data[8 + length :])
            case 1:
                _repacked(rng, file, target)
            case _:
                _damaged_tensors(rng, dict(tensors), target)
        return target

    return Target(mutate, lambda path: open_source(path).read(), models.nonfinite)


def _repacked(rng: np.random.Generator, file: Path, target: Path) -> None:
    """An archive with members damaged, twice or otherwise compressed."""
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w", kinds[int(rng.integers(4))]) as archive:
        names = source.namelist()
        for name in [*names, str(rng.choice(names))][: len(names) + int(rng.integers(2))]:
            data = source.read(name)
            archive.writestr(name, damaged_bytes(rng, data) if rng.random() < 0.1 else data)


def _damaged_tensors(rng: np.random.Generator, tensors: dict[str, np.ndarray], target: Path) -> None:
    """A well-formed file of the wrong tensors."""
    for _ in range(int(rng.integers(1, 4))):
        name = str(rng.choice(list(tensors)))
        match rng.integers(7):
            case 0:
                del tensors[name]
            case 1:
                tensors[str(rng.choice(_NAMES))] = tensors.pop(name)
            case 2:
                tensors[name] = tensors[name][..., None] if rng.random() < 0.5 else tensors[name].reshape(-1)
            case 3:
                tensors[name] = tensors[name][..., : int(rng.integers(tensors[name].shape[-1] + 1))]
            case 4:
                tensors[name] = tensors[name].astype(str(rng.choice(_DTYPES)))
            case 5:
                tensors[name] = np.full(tensors[name].shape, rng.choice(_VALUES))
            case 6:
                tensors[name] = np.resize(tensors[name], rng.integers(0, 40, int(rng.integers(5))))
        if not tensors:
            break
    if target.suffix == ".npz":
        with target.open("wb") as file:
            np.savez(file, **{name: value for name, value in tensors.items() if "\0" not in name})
    else:
        known = {name: value for name, value in tensors.items() if value.dtype.kind in "fib"}
        write_safetensors(target, {n: v.astype(v.dtype.newbyteorder("=")) for n, v in known.items()})
