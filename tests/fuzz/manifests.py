"""Damaged CSV and JSONL lists of images, with the files that they name beside them."""

import contextlib
import csv
import io
import json
import os
from pathlib import Path

import cv2
import numpy as np

from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes, damaged_value
from vit_jax.data.decode import UnreadableImage, decode
from vit_jax.data.sources import manifest, pairs
from vit_jax.errors import UserError

_PATHS = (
    "a.png", "über.png", "d,1.png", "gone.png", "/etc/passwd", "../x.png", "deep/../a.png", ".", "", "a\0.png",
    "\x1b[2J.png", "p" * 5000, "/dev/zero", "gs://bucket/a.png", " a.png ", "a.png\n",
)  # fmt: skip
_LABELS = (
    "cat", "cat ", "dog", "0", "1", "999999999999", "9" * 40, "-1", "", " ", "cat;dog", "\x1b[31m", "a\nb", "²", 0, 3,
    2**62, 10**400, True, None, 1.5, [], ["cat"], [["cat"]], {"a": 1}, "e\u0301", "é", "l" * 5000,
)  # fmt: skip
_KEYS = ("path", "label", "split", "Path", " label", "SPLIT ", "", "x", "\0")


def build(folder: Path) -> Target:
    image = cv2.imencode(".png", np.zeros((3, 4, 3), np.uint8))[1].tobytes()
    for name in ("a.png", "über.png", "d,1.png"):
        (folder / name).write_bytes(image)

    def mutate(rng: np.random.Generator, case: Path) -> tuple[str, dict]:
        rows = [{"path": "a.png", "label": str(rng.choice(["cat", "dog"])), "split": "train"} for _ in range(6)]
        for row in rows:
            for key, values in (("path", _PATHS), ("label", _LABELS), ("split", ("train", "val", "train ", None, 3))):
                if rng.random() < 0.04:
                    row[key] = values[int(rng.integers(len(values)))]
        as_json = rng.random() < 0.5
        data = _jsonl(rng, rows) if as_json else _csv(rng, rows)
        if rng.random() < 0.3:
            data = damaged_bytes(rng, data)
        path = case / ("list.jsonl" if as_json else "list.csv")
        path.write_bytes(data)
        options = {
            "root": str(folder),
            "split": [None, "train", "val"][int(rng.integers(3))],
            "multi_label": rng.random() < 0.3,
            "check_files": rng.random() < 0.5,
            "label_names": [None, ["cat", "dog"], str(path)][int(rng.choice(3, p=[0.7, 0.2, 0.1]))],
        }
        return str(path), options

    def use(given: tuple[str, dict]) -> manifest.ManifestSource:
        path, options = given
        with contextlib.suppress(UserError):  # the labels as texts
            kept = {k: v for k, v in options.items() if k not in ("multi_label", "label_names")}
            texts = pairs.build(path, "label", repeated="join", **kept)
            assert all(text.strip() for k in range(len(texts)) for text in np.atleast_1d(texts.texts[k]))
        source = manifest.build(path, **options)
        for k in range(len(source)):
            try:
                decode(source[k]["image"])
            except UnreadableImage:  # training replaces it
                continue
        return source

    def wrong(source: manifest.ManifestSource) -> str:
        outside = [path for path in source.paths if not os.path.abspath(path).startswith(str(folder))]
        labels = [label for row in source.labels for label in row]
        if outside or not all(0 <= label < len(source.label_names) for label in labels):
            return f"follows {outside}, or has labels outside {len(source.label_names)} classes"
        blank = [name for name in source.label_names if name != name.strip() or not name]
        return f"has the classes {blank}" if blank or len(set(source.label_names)) < len(source.label_names) else ""

    return Target(mutate, use, wrong)


def _jsonl(rng: np.random.Generator, rows: list[dict]) -> bytes:
    lines = []
    for row in rows:
        value = damaged_value(rng, row) if rng.random() < 0.04 else row
        try:
            lines.append(json.dumps(value))
        except (RecursionError, ValueError):  # deeper than json writes, or an integer longer than Python prints
            lines.append("[" * 100_000)
    return "\n".join(lines).encode()


def _csv(rng: np.random.Generator, rows: list[dict]) -> bytes:
    keys = ["path", "label", "split"]
    if rng.random() < 0.15:
        keys = [str(key) for key in rng.choice(_KEYS, int(rng.integers(1, 5)))]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=str(rng.choice([",", ";", "\t", "|"])))
    writer.writerow(keys)
    for row in rows:
        cells = ["9" * 400 if isinstance(v, int) and v > 2**64 else str(v) for v in row.values()]
        writer.writerow(cells[: int(rng.integers(1, 4))] if rng.random() < 0.01 else cells)
    return text.getvalue().encode("utf-8", "surrogatepass")
