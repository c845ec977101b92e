"""A list of images: a CSV or JSONL file that gives the path and the label, or labels, of each."""

import collections
import csv
import functools
import io
import json
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from vit_jax.data.decode import read_file
from vit_jax.data.files import from_here, is_remote, read_bytes
from vit_jax.data.source import check_class_count
from vit_jax.errors import UserError, shortened
from vit_jax.naming import nearest

_DELIMITERS = (",", ";", "\t", "|")
_MOST_NAMES = 256 * 2**20  # bytes of a file of label names


class ManifestSource:
    """Encoded images by path, read when they are asked for.

    Args:
        paths: of the images.
        labels: of each image the class indices; exactly one where `multi_label` is false.
        label_names: names of the classes.
        multi_label: whether "label" is multi-hot float32 [K] rather than a class index.
        remarks: what whoever starts a run may want to know, a sentence each.
        files: further fields, by name the file of each example.
        columns: further fields, by name the value of each example.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: Sequence[Sequence[int]],
        label_names: Sequence[str],
        multi_label: bool,
        remarks: Sequence[str] = (),
        files: Mapping[str, Sequence[str]] = MappingProxyType({}),
        columns: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    ):
        self.paths = list(paths)
        self._files = {name: list(column) for name, column in files.items()}
        self._columns = {name: list(column) for name, column in columns.items()}
        self.field_names = frozenset({"image", "label", *files, *columns})
        self.remarks = tuple(remarks)
        self.label_names = tuple(label_names)
        self.labels = [tuple(row) for row in labels]
        self._multi_label = multi_label

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, labels = self.paths[index], self.labels[index]
        found: dict[str, Any] = {name: column[index] for name, column in self._columns.items()}
        found |= {name: read_file(files[index]) for name, files in self._files.items()}
        found |= {"image": read_file(path), "path": path}
        if not self._multi_label:
            return {**found, "label": labels[0]}
        multi_hot = np.zeros(len(self.label_names), np.float32)
        multi_hot[list(labels)] = 1
        return {**found, "label": multi_hot}


def build(
    path: str,
    root: str | None = None,
    split: str | None = None,
    label_names: Sequence[str] | str | None = None,
    multi_label: bool = False,
    path_key: str = "path",
    label_key: str = "label",
    split_key: str = "split",
    separator: str = ";",
    check_files: bool = True,
    allow_outside: bool = False,
    files: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> ManifestSource:
    """Reads a manifest: CSV with a header line, or JSONL (.jsonl, .ndjson) with one object a line, in UTF-8.

    The fields of a CSV are separated by commas, semicolons, tabs or bars, whichever the header line has; capitals and
    blanks around names do not matter there, nor do blanks around a label or split anywhere.

    A label is the name of a class, or its index where `label_names` are given or all labels are whole numbers. With
    `multi_label` it is any number of them, also none: a list in JSONL, joined by `separator` in CSV.

    Args:
        path: the manifest; a relative one starts where the command was started.
        root: what the paths in it are relative to, its own folder by default.
        split: keep the rows whose `split_key` says this; all rows by default.
        label_names: the classes in order, or a text file with one a line; what the whole manifest uses by default.
            Give them where training and evaluation have manifests of their own.
        path_key, label_key, split_key: columns of the CSV, or keys of the objects.
        check_files: look for every file now, rather than when it is its turn.
        allow_outside: follow paths out of the root, absolute ones and those through "..". Somebody else's manifest
            could name any file of this machine.
        files: further fields of an example, each with the column of its files' paths: segmentation, for example.
        columns: further fields, each with the column of its values: captions, or boxes as lists or JSON.

    Raises:
        UserError: naming the first bad line and how many there are, for lines that are not UTF-8 or not JSON, rows
            without a path or label, labels out of range or unknown, paths out of the root, and files that are missing
            or empty; and for a manifest that is missing or has no rows of the split.
    """
    path = os.path.expanduser(path)
    root = os.path.expanduser(root) if root is not None else os.path.dirname(path)
    files, columns = files or {}, columns or {}
    rows = _read_rows(path, (path_key, label_key, split_key, *files.values(), *columns.values()))
    for column in files.values():
        _refuse(path, rows, functools.partial(_no_text, column), f"no {column!r}")
    for column in columns.values():
        _refuse(path, rows, functools.partial(_no_value, column), f"no {column!r}")
    _refuse(path, rows, lambda row: not isinstance(row.get(path_key), str) or not row[path_key], f"no {path_key!r}")
    if split is not None:
        _refuse(path, rows, lambda row: not isinstance(row.get(split_key), str), f"no {split_key!r}")
        splits = {row[split_key].strip() for _, row in rows}
        if split not in splits:
            raise UserError(f"{path} has no rows with {split_key} {split!r}", nearest(split, sorted(splits)[:100]))
    _refuse(path, rows, lambda row: row.get(label_key) is None, f"no {label_key!r}")
    labels = [_labels_of(row[label_key], multi_label, separator) for _, row in rows]
    bad = [line for (line, _), found in zip(rows, labels, strict=True) if found is None]
    _report(path, bad, len(rows), "a label that is neither a name nor an index" if not multi_label else "bad labels")
    names, indexes = _index(path, [line for line, _ in rows], labels, _known_names(label_names))
    listed = [row[path_key] for _, row in rows]
    all_paths = [image if is_remote(image) else os.path.join(root, image) for image in listed]
    if not allow_outside:
        _refuse_outside(path, root, [line for line, _ in rows], all_paths)
    kept = [k for k, (_, row) in enumerate(rows) if split is None or row[split_key].strip() == split]
    paths = [all_paths[k] for k in kept]
    if check_files and not is_remote(root):  # asking a bucket for each would take longer than reading an epoch
        _check_files(path, [rows[k][0] for k in kept], paths)
    beside = {}
    for name, column in files.items():
        listed_there = [row[column] for _, row in rows]
        there = [file if is_remote(file) else os.path.join(root, file) for file in listed_there]
        if not allow_outside:
            _refuse_outside(path, root, [line for line, _ in rows], there)
        beside[name] = [there[k] for k in kept]
        if check_files and not is_remote(root):
            _check_files(path, [rows[k][0] for k in kept], beside[name])
    values = {name: [rows[k][1][column] for k in kept] for name, column in columns.items()}
    of_split = [str(row.get(split_key, "")).strip() if split is not None else "" for _, row in rows]
    remarks = _twice(path, [line for line, _ in rows], all_paths, indexes, of_split, () if multi_label else names)
    return ManifestSource(paths, [indexes[k] for k in kept], names, multi_label, tuple(remarks), beside, values)


def _no_text(column: str, row: Mapping[str, Any]) -> bool:
    return not isinstance(row.get(column), str) or not row[column]


def _no_value(column: str, row: Mapping[str, Any]) -> bool:
    return row.get(column) is None


def _read_rows(path: str, keys: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
    """Line number and fields of each row; at least one.

    Args:
        keys: the columns that will be asked for, first that of the paths, which must be there.
    """
    try:
        data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(
            f"The manifest {from_here(path)} could not be read: {error.strerror or error}", "Check the path"
        ) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        lines = data.split(b"\n")
        bad = [number for number, line in enumerate(lines, 1) if not _is_utf8(line)]
        _report(path, bad, len(lines), "bytes that are not UTF-8", "Save it as UTF-8")
        raise
    if path.lower().endswith((".jsonl", ".ndjson")):
        numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows = [(number, _json_object(line)) for number, line in numbered]
        _report(path, [number for number, row in rows if row is None], len(rows), "no JSON object")
    else:
        rows = _csv_rows(path, text, keys)
    if not rows:
        raise UserError(f"The manifest {path} has no rows", "Write one for each image")
    return rows


def _csv_rows(path: str, text: str, keys: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
    first_line = text.partition("\n")[0]
    # The one that makes the column of the paths; a name may hold any of the others.
    delimiter = next((d for d in _DELIMITERS if _folded(keys[0]) in _header(first_line, d)), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        header = reader.fieldnames or []
        # What is written exactly as it is asked for comes first.
        asked = {_folded(key): key for key in keys if key not in header}
        renamed = {name: asked.get(_folded(name), name) for name in header}
        if header and keys[0] not in renamed.values():
            shown = shortened(", ".join(header), 200)
            raise UserError(f"{path} has no column {keys[0]!r} but {shown}", "Write a header line, or set path_key")
        for key in keys:
            if len(alike := [name for name in header if renamed[name] == key]) > 1:
                raise UserError(f"{path} has the columns {alike} for {key!r}", "Rename one of them")
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error} in line {reader.line_num}", "Mend its quotes") from error
    # More fields than columns (under None), or fewer (as None): a comma in a name, most likely.
    bad = [line for line, row in rows if None in row or None in row.values()]
    _report(path, bad, len(rows), f"other than {len(header)} fields", "Put fields with commas in quotes")
    return [(line, {renamed[name]: value for name, value in row.items()}) for line, row in rows]


def _folded(name: str) -> str:
    """The name of a column without what people do not see or mean: blanks around it, and capitals."""
    return name.strip().casefold()


def _header(line: str, delimiter: str) -> list[str]:
    """The folded names of the columns; none for a line that is no CSV."""
    try:
        return [_folded(name) for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _labels_of(value: Any, multi_label: bool, separator: str) -> list[str] | None:
    """The labels of one row as names or indices in text, None where they are something else."""
    if multi_label and isinstance(value, str):
        value = [part for part in value.split(separator) if part.strip()]
    values = value if multi_label and isinstance(value, list) else [value]
    if not all(isinstance(v, (str, int)) and not isinstance(v, bool) for v in values):
        return None
    # One spelling for accents, and no blanks that nobody sees.
    names = [unicodedata.normalize("NFC", str(v)).strip() for v in values]
    return names if all(names) else None


def _index(
    path: str, lines: list[int], labels: list[list[str]], names: list[str] | None
) -> tuple[list[str], list[list[int]]]:
    """The classes, and the labels as their indices."""
    found = {label for row in labels for label in row}
    # Twenty digits are more than any number of classes, and enough to say so.
    numbers = {int(label[:20]) for label in found if label.isdecimal() and label.isascii()}
    if names is None:
        if found and len(numbers) == len(found):
            names = [str(k) for k in range(check_class_count(path, max(numbers) + 1))]
        else:
            names = sorted(found)
    known = {name: k for k, name in enumerate(names)}
    # A name that looks like a number is a name first.
    known = {str(k): k for k in range(len(names))} | known
    bad = [line for line, row in zip(lines, labels, strict=True) if any(label not in known for label in row)]
    if bad:
        unknown = next(label for row in labels for label in row if label not in known)
        is_index = unknown.lstrip("-").isdecimal()
        hint = f"Indices go from 0 to {len(names) - 1}" if is_index else nearest(unknown[:200], names)
        shown = shortened(repr(unknown), 100)
        _report(path, bad, len(lines), f"labels outside the {len(names)} classes ({shown})", hint)
    return names, [[known[label] for label in row] for row in labels]


def _known_names(label_names: Sequence[str] | str | None) -> list[str] | None:
    if isinstance(label_names, str):
        try:
            text = read_bytes(os.path.expanduser(label_names), _MOST_NAMES).decode("utf-8-sig")
            label_names = text.split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The label names {label_names} could not be read: {error}", "Check the path") from error
        label_names = [name.strip() for name in label_names if name.strip()]
    if label_names is None:
        return None
    names = [unicodedata.normalize("NFC", str(name)).strip() for name in label_names]
    if not names or len(set(names)) != len(names):
        raise UserError("label_names are empty or name a class twice", "Give each class one name")
    return names


def _refuse_outside(path: str, root: str, lines: list[int], images: list[str]) -> None:
    inside = os.path.join(root if is_remote(root) else os.path.abspath(root), "")
    absolute = ((image, image if is_remote(image) else os.path.abspath(image)) for image in images)
    bad = [
        (line, image)
        for line, (image, whole) in zip(lines, absolute, strict=True)
        if not os.path.join(whole, "").startswith(inside) or (is_remote(whole) and ".." in whole.split("/"))
    ]
    if bad:
        raise UserError(
            f"{len(bad)} of {len(lines)} paths in {path} lead out of {root or os.getcwd()}, first"
            f" {shortened(repr(bad[0][1]), 200)} in line {bad[0][0]}",
            "If you trust the list, set allow_outside=True (prepare: --allow-outside), or root to a folder above them",
        )


def _twice(
    path: str,
    lines: list[int],
    images: list[str],
    labels: list[list[int]],
    splits: list[str],
    names: Sequence[str],
) -> Iterator[str]:
    """Remarks on files that are listed more than once and contradict themselves."""
    counts = collections.Counter(map(os.path.normpath, images))
    if len(counts) == len(images):
        return
    rows: dict[str, list[int]] = {}
    for k, image in enumerate(map(os.path.normpath, images)):
        if counts[image] > 1:
            rows.setdefault(image, []).append(k)
    for what, values in (("different labels", labels if names else []), ("different splits", splits)):
        bad = [of for of in rows.values() if len(values) and any(values[k] != values[of[0]] for k in of)]
        if bad:
            first, other = bad[0][0], next(k for k in bad[0] if values[k] != values[bad[0][0]])
            yield (
                f"{len(bad)} files are listed in {path} with {what}, first {shortened(images[first], 200)!r} in the"
                f" lines {lines[first]} and {lines[other]}"
            )


def _check_files(path: str, lines: list[int], images: list[str]) -> None:
    missing, empty = [], []
    for line, image in zip(lines, images, strict=True):
        try:
            status = os.stat(image)
            if not stat.S_ISREG(status.st_mode):
                missing.append((line, image))
            elif status.st_size == 0:
                empty.append((line, image))
        except (OSError, ValueError):  # ValueError: a NUL in the name
            missing.append((line, image))
    hint = "Mend the list or set root; check_files=False leaves them to training, which replaces and counts them"
    for bad, what in ((missing, "are missing or no files"), (empty, "are empty")):
        if bad:
            line, first = bad[0]
            others = f", and {len(empty)} are empty" if bad is missing and empty else ""
            raise UserError(
                f"{len(bad)} of {len(images)} files that {path} lists {what}{others}: first"
                f" {shortened(repr(first), 200)} in line {line}",
                hint,
            )


def _refuse(path: str, rows: Iterable[tuple[int, dict]], bad: Callable[[dict], bool], what: str) -> None:
    rows = list(rows)
    _report(path, [line for line, row in rows if bad(row)], len(rows), what)


def _report(path: str, bad: list[int], total: int, what: str, what_to_do: str = "Mend or remove them") -> None:
    if bad:
        have = "has" if len(bad) == 1 else "have"
        raise UserError(f"{len(bad)} of {total} lines of {path} {have} {what}, first line {bad[0]}", what_to_do)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
        return None
    return value if isinstance(value, dict) else None
