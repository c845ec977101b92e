"""Where samples go: one picture of all, an array, or a directory that an interrupted command goes on filling."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vit_jax.commands.output import output_file, output_folder
from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.checkpoints.sampling import Samples

SETTINGS = "samples.json"  # of a directory
_GROWS = ("count", "conditions")  # what may differ between two calls that fill one directory


class Target(Protocol):
    """What `--output` names."""

    def missing(self, said: Mapping[str, Any]) -> list[int]:
        """The numbers that are to be drawn.

        Args:
            said: how: what is stored beside the samples.
        """
        ...

    def write(self, numbers: Sequence[int], samples: Samples) -> None:
        """Takes the images of these numbers."""
        ...

    def finish(self) -> str:
        """Writes what is left, and says what was written."""
        ...

    def interrupted(self, drawn: int) -> str:
        """Says what is left of so many that were drawn, "" for nothing."""
        ...


def target(name: str, columns: int | None = None) -> Target:
    """That of a path, which is checked.

    Args:
        columns: images of one row of a picture; None for about a square.
    """
    if name.endswith("/") or os.path.isdir(name):
        return _Folder(output_folder(name))
    path = output_file(name, suffixes=(".png", ".npz"))
    beside = output_file(str(path.with_suffix(".json")))
    if beside.exists() and not _is_said(beside):
        raise UserError(
            f"{beside}, in which stands how samples are drawn, is there and holds something else",
            "Give --output another name",
        )
    return _Whole(path, columns)


def _is_said(file: Path) -> bool:
    """Whether an earlier call has written it."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and {"checkpoint", "settings"} <= set(said)


class _Whole:
    """A picture or an array of all samples, with a JSON file beside it."""

    def __init__(self, path: Path, columns: int | None):
        self._path, self._columns, self._parts = path, columns, []

    def missing(self, said: Mapping[str, Any]) -> list[int]:
        self._said = said
        return list(range(said["count"]))

    def write(self, numbers: Sequence[int], samples: Samples) -> None:
        del numbers
        self._parts.append(samples)

    def finish(self) -> str:
        import numpy as np

        from vit_jax.checkpoints.sampling import Samples
        from vit_jax.data.drawing import image_png, mosaic

        samples = Samples.joined(self._parts)
        if self._path.suffix.lower() == ".png":
            self._path.write_bytes(image_png(mosaic(samples.images, self._columns)))
        else:
            with self._path.open("wb") as file:
                # Not pictures, which would be there once for each sample.
                asked = {name: values for name, values in samples.conditions.items() if values.ndim < 4}
                np.savez_compressed(file, images=samples.images, **asked)
        beside = self._path.with_suffix(".json")
        beside.write_bytes(_text(self._said))
        return f"{self._path}: {len(samples)} images, and in {beside.name} how they were drawn"

    def interrupted(self, drawn: int) -> str:
        del drawn
        return ""


class _Folder:
    """A directory with a PNG for each sample by its number. One that is there is not drawn again."""

    def __init__(self, path: Path):
        self._path, self._begun = path, False

    def missing(self, said: Mapping[str, Any]) -> list[int]:
        self._said, stored = said, self._path / SETTINGS
        if stored.exists():
            self._check(stored)
        elif any(self._path.glob("*.png")):
            raise UserError(f"{self._path} has images, and no {SETTINGS}", "Name an empty directory")
        self._missing = [number for number in range(said["count"]) if not self._file(number).exists()]
        return self._missing

    def write(self, numbers: Sequence[int], samples: Samples) -> None:
        from vit_jax.data.drawing import image_png

        if not self._begun:
            self._path.mkdir(exist_ok=True)
            _replace(self._path / SETTINGS, _text(self._said))
            self._begun = True
        for number, image in zip(numbers, samples.images, strict=True):
            _replace(self._file(number), image_png(image))

    def finish(self) -> str:
        new, count = len(self._missing), self._said["count"]
        drawn = "" if new == count else f", {new} of them new"
        return f"{self._path}: {count} images{drawn}, and in {SETTINGS} how they were drawn"

    def interrupted(self, drawn: int) -> str:
        count = self._said["count"]
        there = count - len(self._missing) + drawn
        return f"{self._path} has {there} of {count} images; the same command draws the others"

    def _file(self, number: int) -> Path:
        return self._path / f"{number:06d}.png"

    def _check(self, stored: Path) -> None:
        try:
            before = json.loads(stored.read_text(encoding="utf-8"))
            keys = [key for key in (*self._said, *before) if key not in _GROWS]
        except (ValueError, TypeError) as error:
            raise UserError(f"{stored} cannot be read", "Name another directory") from error
        for key in keys:
            if json.dumps(before.get(key)) != json.dumps(self._said.get(key)):
                raise UserError(f"{self._path} has images of another {key}", "Name another directory")


def columns_of(prompts: Sequence[str], count: int) -> int | None:
    """Columns in which each image stands below those of the same prompt; None where that makes no picture."""
    several = len(prompts)
    if not 1 < several <= 2 * math.sqrt(count):
        return None
    return several * max(1, round(math.sqrt(count) / several))


def _text(said: Mapping[str, Any]) -> bytes:
    return (json.dumps(said, indent=1) + "\n").encode()


def _replace(path: Path, data: bytes) -> None:
    """A whole file or nothing, whenever the command ends."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)
