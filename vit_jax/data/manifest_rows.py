"""The rows of a list of files, CSV or JSONL, and one sentence for what is wrong with them."""

import collections
import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vit_jax.data.files import from_here, is_remote, read_bytes
from vit_jax.errors import UserError, shortened
from vit_jax.naming import nearest

_DELIMITERS = (",", ";", "\t", "|")

Rows = Sequence[tuple[int, Mapping[str, Any]]]
"""The number of its line, and the fields, of each row."""


def read_rows(path: str, keys: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
    """Line number and fields of each row; at least one.

    Args:
        path: CSV with a header line, or JSONL (.jsonl, .ndjson), in UTF-8.
        keys: the columns that will be asked for, first that of the paths, which must be there.

    Raises:
        UserError: for a file that is missing, is not UTF-8, or has no rows, and for lines that are none.
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
        report(path, bad, len(lines), "bytes that are not UTF-8", "Save it as UTF-8")
        raise
    if path.lower().endswith((".jsonl", ".ndjson")):
        numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows = [(number, _json_object(line)) for number, line in numbered]
        report(path, [number for number, row in rows if row is None], len(rows), "no JSON object")
    else:
        rows = _csv_rows(path, text, keys)
    if not rows:
        raise UserError(f"The manifest {path} has no rows", "Write one for each image")
    return rows


def splits_of(path: str, rows: Rows, split: str | None, split_key: str) -> list[str | None]:
    """The split that each row says it is of; None for each where none is asked for.

    Raises:
        UserError: for rows that say none, and where no row is of `split`.
    """
    if split is None:
        return [None] * len(rows)
    refuse(path, rows, lambda row: not isinstance(row.get(split_key), str), f"no {split_key!r}")
    found = [row[split_key].strip() for _, row in rows]
    if split not in found:
        raise UserError(f"{path} has no rows with {split_key} {split!r}", nearest(split, sorted(set(found))[:100]))
    return found


def paths_of(path: str, rows: Rows, column: str, root: str, allow_outside: bool) -> list[str]:
    """The files in a column, each of which must be there.

    Args:
        path: of the list, for errors.
        root: what the files are relative to.
        allow_outside: whether they may lead out of the root.

    Raises:
        UserError: for files out of the root.
    """
    listed = [row[column] for _, row in rows]
    found = [file if is_remote(file) else os.path.join(root, file) for file in listed]
    if not allow_outside:
        _refuse_outside(path, root, [line for line, _ in rows], found)
    return found


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
    report(path, bad, len(rows), f"other than {len(header)} fields", "Put fields with commas in quotes")
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


def listed_twice(
    path: str, lines: Sequence[int], images: Sequence[str], of_row: Mapping[str, Sequence[Any]]
) -> Iterator[str]:
    """Remarks on files that are listed more than once and contradict themselves.

    Args:
        of_row: by its name, in the plural, what each row says of its file.
    """
    twice = rows_by_file(images)
    for what, values in of_row.items():
        bad = [of for of in twice if any(values[k] != values[of[0]] for k in of)]
        if bad:
            first, other = bad[0][0], next(k for k in bad[0] if values[k] != values[bad[0][0]])
            yield (
                f"{len(bad)} files are listed in {path} with different {what}, first"
                f" {shortened(images[first], 200)!r} in the lines {lines[first]} and {lines[other]}"
            )


def rows_by_file(images: Sequence[str]) -> list[list[int]]:
    """The rows of each file that is listed more than once, in the order of its first."""
    plain = list(map(os.path.normpath, images))
    counts = collections.Counter(plain)
    rows: dict[str, list[int]] = {}
    for k, image in enumerate(plain) if len(counts) != len(images) else ():
        if counts[image] > 1:
            rows.setdefault(image, []).append(k)
    return list(rows.values())


def refuse_missing(path: str, root: str, lines: Sequence[int], images: Sequence[str]) -> None:
    """Refuses files that are missing, empty, or none; those of a bucket are not looked for."""
    if is_remote(root):  # asking for each would take longer than reading an epoch
        return
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


def refuse(path: str, rows: Rows, bad: Callable[[Mapping[str, Any]], bool], what: str) -> None:
    """`report` of the rows that are `bad`."""
    report(path, [line for line, row in rows if bad(row)], len(rows), what)


def report(path: str, bad: Sequence[int], total: int, what: str, what_to_do: str = "Mend or remove them") -> None:
    """Refuses a list for its `bad` lines, if there are any: how many of its `total` have `what`, and the first."""
    if bad:
        have = "has" if len(bad) == 1 else "have"
        raise UserError(f"{len(bad)} of {total} lines of {path} {have} {what}, first line {bad[0]}", what_to_do)


def no_text(column: str, row: Mapping[str, Any]) -> bool:
    """Whether a row has no text in a column, or an empty one."""
    return not isinstance(row.get(column), str) or not row[column]


def no_value(column: str, row: Mapping[str, Any]) -> bool:
    """Whether a row has nothing in a column."""
    return row.get(column) is None


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
