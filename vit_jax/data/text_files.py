"""Text files: which ones a source means, and their lines, with the place of what is wrong in them."""

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.data.files import from_here, is_remote, read_bytes
from vit_jax.errors import UserError
from vit_jax.naming import nearest

JSON_LINES = (".jsonl", ".ndjson")


def text_paths(paths: str | Sequence[str], of: str = "texts", pattern: str = "texts/*.txt") -> list[str]:
    """Files by their names or by patterns with `*`, `**` and `?`: of each pattern in the order of their names.

    Args:
        of, pattern: what they hold and how they may be named, for errors.

    Raises:
        UserError: for a pattern that no file fits, and for no paths at all.
    """
    found: list[str] = []
    for path in [paths] if isinstance(paths, str) else paths:
        path = os.path.expanduser(path)
        if is_remote(path) or not glob.has_magic(path) or os.path.exists(path):
            found.append(path)
            continue
        fitting = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        if not fitting:
            raise UserError(f"No file is named like {from_here(path)}", "Check the path")
        found += fitting
    if not found:
        raise UserError(f"There are no files of {of}", f"Give paths, or patterns such as {pattern}")
    return list(dict.fromkeys(found))


def read_text(path: str) -> str:
    """The text of a file in UTF-8, without the mark of its byte order, its lines ended as everywhere.

    Raises:
        UserError: for a file that cannot be read, bytes that are not UTF-8 (with the line), and an empty text.
    """
    try:
        data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"{from_here(path)} could not be read: {error.strerror or error}", "Check the path") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} has bytes that are not UTF-8 in line {line}", "Save it as UTF-8") from error
    if not text.strip():
        raise UserError(f"{path} is an empty text", "Leave it out")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def numbered_lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not empty, with their numbers from 1."""
    return ((number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip())


def json_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with the numbers of their lines.

    Raises:
        UserError: for a line that is no object.
    """
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path} has no JSON object in line {number}", "Write one on each line")
        yield number, row


def text_in(row: Mapping[str, Any], key: str, where: str) -> str:
    """The text of a row under a key.

    Raises:
        UserError: where there is none, or an empty one.
    """
    if key not in row:
        raise UserError(f"{where} has no {key!r}", nearest(key, row))
    if not isinstance(row[key], str) or not row[key].strip():
        what = "an empty text" if isinstance(row[key], str) else "no text"
        raise UserError(f"{where} has {what} as {key!r}", "Mend it, or leave it out")
    return row[key]


def class_indices(
    labels: Sequence[Any], places: Sequence[str], label_names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels, which are names or with `label_names` also indices, as indices int32 [N], and the classes' names.

    Args:
        places: where each label stands, for errors.
        label_names: the classes in order; by default all that are found, sorted.

    Raises:
        UserError: for a label that is not among the names, or neither a name nor an index.
    """
    for label, where in zip(labels, places, strict=True):
        if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
            raise UserError(f"{where} has the label {label!r}", "Give each a name, or an index")
    names = tuple(str(name) for name in label_names or sorted({str(label) for label in labels}, key=_by_number))
    known = {str(k): k for k in range(len(names))} if label_names else {}
    known |= {name: k for k, name in enumerate(names)}  # a name that looks like a number is a name first
    for label, where in zip(labels, places, strict=True):
        if str(label) not in known:
            raise UserError(f"{where} has the label {label!r}", nearest(str(label), names))
    return np.array([known[str(label)] for label in labels], np.int32), names


def _by_number(name: str) -> tuple[int, str]:
    """Numbers come in their order, before names."""
    return (int(name[:20]), name) if name.isdecimal() and name.isascii() else (10**20, name)
