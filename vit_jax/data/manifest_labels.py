"""Classes and labels of a list of files."""

import functools
import os
import unicodedata
from collections.abc import Sequence
from typing import Any

from vit_jax.data.files import read_bytes
from vit_jax.data.manifest_rows import Rows, no_value, refuse, report
from vit_jax.data.source import check_class_count
from vit_jax.errors import UserError, shortened
from vit_jax.naming import nearest

_MOST_NAMES = 256 * 2**20  # bytes of a file of label names


def labels_of(
    path: str,
    rows: Rows,
    label_key: str,
    multi_label: bool,
    separator: str,
    label_names: Sequence[str] | str | None,
) -> tuple[list[str], list[list[int]]]:
    """The classes, and of each row the labels as their indices: exactly one where `multi_label` is false.

    Args:
        path: of the list, for errors.
        separator: of several labels in one text.
        label_names: the classes in order, or a text file with one a line; by default those that are found.

    Raises:
        UserError: with the first line and how many there are, for rows without a label, and for labels that are
            neither names nor indices, unknown or out of range.
    """
    refuse(path, rows, functools.partial(no_value, label_key), f"no {label_key!r}")
    labels = [_names_in(row[label_key], multi_label, separator) for _, row in rows]
    bad = [line for (line, _), found in zip(rows, labels, strict=True) if found is None]
    report(path, bad, len(rows), "a label that is neither a name nor an index" if not multi_label else "bad labels")
    return _indexes(path, [line for line, _ in rows], labels, _known_names(label_names))


def _names_in(value: Any, multi_label: bool, separator: str) -> list[str] | None:
    """The labels of one row as names or indices in text, None where they are something else."""
    if multi_label and isinstance(value, str):
        value = [part for part in value.split(separator) if part.strip()]
    values = value if multi_label and isinstance(value, list) else [value]
    if not all(isinstance(v, (str, int)) and not isinstance(v, bool) for v in values):
        return None
    # One spelling for accents, and no blanks that nobody sees.
    names = [unicodedata.normalize("NFC", str(v)).strip() for v in values]
    return names if all(names) else None


def _indexes(
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
        report(path, bad, len(lines), f"labels outside the {len(names)} classes ({shown})", hint)
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
