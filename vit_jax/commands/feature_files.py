"""Rows of numbers for a list of images in one file, written as they come: what `vit_jax features` makes.

While it is made, `FILE.partial/` beside it holds the rows as bytes, one file an output, and a line for each image that
was dealt with; the file itself is put together from them at the end and is there whole or not at all. An .npz holds
`paths` [N] and an array [N, ...] for each output; a .parquet has a column `path` and a column of lists for each output,
whose shape is in the column's metadata.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from vit_jax.data.files import write_whole
from vit_jax.errors import UserError

SUFFIXES = (".npz", ".parquet")
ABOUT = "about"  # the array of an .npz and the metadata of a .parquet with what the file says of itself, as JSON
_GROUP = 1 << 26  # bytes of a group of rows, of which one is in memory


class FeatureFile:
    """A file in the making, which goes on where an earlier call was interrupted.

    Args:
        path: the file, .npz or .parquet.
        about: plain values that say what is in it; rows of another `about` are left out and made anew.
        images: names of the images, in order, as they are to be kept.
        dtype: "float32" or "float16", of the rows.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], images: Sequence[str], dtype: str):
        self._path, self._images, self._dtype = path, list(images), np.dtype(dtype)
        self._about = json.dumps(dict(about), sort_keys=True)
        self._folder = path.with_name(path.name + ".partial")
        self._open: dict[str, IO[bytes]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.refused: list[tuple[str, str]] = []  # what could not be read and what to do, of each such image
        self.done = 0  # images that are dealt with
        self._kept: list[int] = []  # the places of those with a row
        self._resume()

    @property
    def complete(self) -> bool:
        """Whether the file is there, whole, with what it is to hold."""
        return about_in(self._path) == self._about and self._left() != self._about

    def add(self, outputs: Mapping[str, Float[np.ndarray, "n ..."]], reasons: Sequence[tuple[str, str] | None]) -> None:
        """The next images.

        Args:
            outputs: rows of those that could be read.
            reasons: for each image None, or why it could not and what to do.
        """
        if not self.done and self._left() != self._about:
            # Not before there is something to write: what was asked for may turn out to be impossible.
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir()
            write_whole(self._folder / "about.json", json.dumps(self._about))
        if outputs and not self._shapes:
            self._shapes = {name: rows.shape[1:] for name, rows in outputs.items()}
            write_whole(self._folder / "shapes.json", json.dumps(self._shapes))
        for name, rows in outputs.items():
            file = self._open.get(name) or self._open.setdefault(name, self._rows(name).open("ab"))
            file.write(np.ascontiguousarray(rows, self._dtype).data)
            file.flush()
        # After the rows: what has a line here is there.
        with (self._folder / "done.jsonl").open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(reason) + "\n" for reason in reasons)
        self._note(reasons)

    def finish(self) -> int:
        """Puts the file together; returns its rows.

        Raises:
            UserError: when no image could be read.
        """
        self.close()
        if not self._kept:
            shutil.rmtree(self._folder)
            raise UserError("None of the images could be read", self.refused[0][1] if self.refused else "")
        partial = self._folder / ("whole" + self._path.suffix)
        names = [self._images[i] for i in self._kept]
        (self._write_npz if self._path.suffix == ".npz" else self._write_parquet)(partial, names)
        os.replace(partial, self._path)
        shutil.rmtree(self._folder)
        return len(names)

    def _resume(self) -> None:
        """Takes over what an earlier call left, as far as it is whole."""
        folder = self._folder
        if self._left() != self._about:
            return
        shapes = _read_json(folder / "shapes.json")
        lines = (folder / "done.jsonl").read_text(encoding="utf-8") if (folder / "done.jsonl").exists() else ""
        reasons = [json.loads(line) for line in lines.splitlines(keepends=True) if line.endswith("\n")]
        self._shapes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
        there = min((self._size(name) // self._row_bytes(name) for name in self._shapes), default=0)
        while sum(reason is None for reason in reasons) > there:  # lines reached the disk before their rows
            reasons.pop()
        reasons = [tuple(reason) if reason else None for reason in reasons]
        self._note(reasons)
        write_whole(folder / "done.jsonl", "".join(json.dumps(reason) + "\n" for reason in reasons))
        for name in self._shapes:
            with self._rows(name).open("ab") as file:
                file.truncate(len(self._kept) * self._row_bytes(name))

    def _left(self) -> str | None:
        """What an earlier call, which did not end, was making; None where there is nothing of one."""
        return _read_json(self._folder / "about.json")

    def _note(self, reasons: Sequence[tuple[str, str] | None]) -> None:
        self._kept += [self.done + i for i, reason in enumerate(reasons) if reason is None]
        self.refused += [reason for reason in reasons if reason is not None]
        self.done += len(reasons)

    def _rows(self, name: str) -> Path:
        return self._folder / f"{list(self._shapes).index(name):03d}.rows"  # names of layers have slashes

    def _size(self, name: str) -> int:
        path = self._rows(name)
        return path.stat().st_size if path.exists() else 0

    def _row_bytes(self, name: str) -> int:
        return int(np.prod(self._shapes[name], dtype=np.int64)) * self._dtype.itemsize

    def close(self) -> None:
        """Leaves it as it is, for a later call."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _write_npz(self, path: Path, names: Sequence[str]) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, array in ((ABOUT, np.array(self._about)), ("paths", np.array(names))):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            for name, shape in self._shapes.items():
                header = {"descr": self._dtype.str, "fortran_order": False, "shape": (len(names), *shape)}
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member, self._rows(name).open("rb") as rows:
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(rows, member, 1 << 24)

    def _write_parquet(self, path: Path, names: Sequence[str]) -> None:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        kind = arrow.float32() if self._dtype == np.float32 else arrow.float16()
        sizes = {name: int(np.prod(shape, dtype=np.int64)) for name, shape in self._shapes.items()}
        columns = [arrow.field("path", arrow.string())]
        columns += [
            arrow.field(name, arrow.list_(kind, sizes[name]), metadata={"shape": json.dumps(self._shapes[name])})
            for name in self._shapes
        ]
        schema = arrow.schema(columns, metadata={ABOUT: self._about})
        group = max(1, _GROUP // sum(map(self._row_bytes, self._shapes)))
        with parquet.ParquetWriter(path, schema) as writer:
            for start, parts in self._groups(group, len(names)):
                lists = [
                    arrow.FixedSizeListArray.from_arrays(arrow.array(p.ravel()), sizes[n]) for n, p in parts.items()
                ]
                count = len(next(iter(parts.values())))
                writer.write_table(arrow.table([arrow.array(names[start : start + count]), *lists], schema=schema))

    def _groups(self, group: int, count: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Rows of all outputs, some at a time, and the number of the first."""
        arrays = {
            name: np.memmap(self._rows(name), self._dtype, "r", shape=(count, *shape))
            for name, shape in self._shapes.items()
        }
        for start in range(0, count, group):
            yield start, {name: np.asarray(rows[start : start + group]) for name, rows in arrays.items()}


def about_in(path: Path) -> str | None:
    """What a finished file says of itself; None for one that is not there or that `FeatureFile` has not written."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                found = str(file[ABOUT])
        else:
            import pyarrow.parquet as parquet

            found = parquet.read_schema(path).metadata[ABOUT.encode()].decode()
        return found if {"checkpoint", "model"} <= set(json.loads(found)) else None  # not another's array "about"
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):  # pyarrow's are ValueErrors
        return None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
