"""Damaged data sets of TFDS: their JSON, their lists of names, their ArrayRecord files and the records in them."""

import contextlib
import io
import json
import logging
import shutil
from pathlib import Path

import numpy as np

from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes, damaged_json
from vit_jax.data.array_record import write
from vit_jax.data.decode import UnreadableImage, decode
from vit_jax.data.sources import digits, tfds
from vit_jax.data.tf_example import read_example

_SPLITS = (
    "train", "test", "train[:10%]", "train[-1%:]", "train[5:]", "train+test", "train[:99999999999]", "train[", "[:]",
    "train[1:2]+", "x" * 3000, "train[9:3]", "train[-0:]", "train[:1e3%]", "\x1b", "train[۱:]",
)  # fmt: skip


def build(folder: Path) -> Target:
    whole = folder / "whole"
    logging.getLogger("absl").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        write("own", {s: digits.build(s, per_class=1, classes=[0, 1, 2]) for s in ("train", "test")}, str(whole))
    files = {path.name: path.read_bytes() for path in (whole / "own" / "1.0.0").iterdir()}
    shutil.rmtree(whole)
    [records] = [name for name in files if name.startswith("own-train")]

    def mutate(rng: np.random.Generator, case: Path) -> tuple[str, str] | bytes:
        if rng.random() < 0.2:
            return damaged_bytes(rng, _EXAMPLE)
        data = case / "own" / "1.0.0"
        data.mkdir(parents=True)
        changed = dict(files)
        match rng.integers(6):
            case 0 | 1:
                changed["dataset_info.json"] = damaged_json(rng, json.loads(files["dataset_info.json"]))
            case 2 | 3:
                changed["features.json"] = damaged_json(rng, json.loads(files["features.json"]))
            case 4:
                changed["label.labels.txt"] = damaged_bytes(rng, files["label.labels.txt"])
            case 5:
                content = files[records]
                # What is in it lies at the start and, as an index, at the end.
                changed[records] = damaged_bytes(rng, content[:2000]) + damaged_bytes(rng, content[2000:])
                if rng.random() < 0.1:
                    changed[records] = b""
        for name, content in changed.items():
            if rng.random() < 0.01:
                continue
            (data / name).write_bytes(content)
        return str(case), str(rng.choice(_SPLITS)) if rng.random() < 0.3 else "train"

    def use(given: tuple[str, str] | bytes) -> tfds.TfdsSource | None:
        if isinstance(given, bytes):
            with contextlib.suppress(ValueError):  # its one error, which becomes that of an unreadable image
                read_example(given)
            return None
        source = tfds.build("own", given[1], given[0])
        for k in range(len(source)):
            try:
                example = source[k]
                decode(example["image"])
            except UnreadableImage:  # training replaces it
                continue
        return source

    def wrong(source: tfds.TfdsSource | None) -> str:
        if source is None:
            return ""
        names = source.label_names
        return (
            f"{len(source)} examples of {len(names)} classes" if not len(source) or len(set(names)) < len(names) else ""
        )

    return Target(mutate, use, wrong)


def _field(number: int, body: bytes) -> bytes:
    return bytes([number << 3 | 2, len(body)]) + body


def _feature(name: bytes, kind: int, values: bytes) -> bytes:
    return _field(1, _field(1, name) + _field(2, _field(kind, values)))


# An Example with bytes, packed and single whole numbers, and a float.
_EXAMPLE = _field(
    1,
    _feature(b"image", 1, _field(1, b"bytes")) + _feature(b"label", 3, _field(1, b"\x03\xff\xff\x01"))
    + _feature(b"one", 3, b"\x08\x05") + _feature(b"float", 2, _field(1, b"\0\0\x80\x3f")),
)  # fmt: skip
