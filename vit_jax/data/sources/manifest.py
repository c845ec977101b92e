"""A list of images: a CSV or JSONL file that gives the path and the label, or labels, of each."""

import functools
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from vit_jax.data.decode import read_file
from vit_jax.data.manifest_labels import labels_of
from vit_jax.data.manifest_rows import (
    listed_twice,
    no_text,
    no_value,
    paths_of,
    read_rows,
    refuse,
    refuse_missing,
    splits_of,
)  # fmt: skip


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
    rows = read_rows(path, (path_key, label_key, split_key, *files.values(), *columns.values()))
    for column in files.values():
        refuse(path, rows, functools.partial(no_text, column), f"no {column!r}")
    for column in columns.values():
        refuse(path, rows, functools.partial(no_value, column), f"no {column!r}")
    refuse(path, rows, functools.partial(no_text, path_key), f"no {path_key!r}")
    splits = splits_of(path, rows, split, split_key)
    names, indexes = labels_of(path, rows, label_key, multi_label, separator, label_names)
    all_paths = paths_of(path, rows, path_key, root, allow_outside)
    beside = {name: paths_of(path, rows, column, root, allow_outside) for name, column in files.items()}
    kept = [k for k, of in enumerate(splits) if of == split]
    for listed in (all_paths, *beside.values()) if check_files else ():
        refuse_missing(path, root, [rows[k][0] for k in kept], [listed[k] for k in kept])
    values = {name: [rows[k][1][column] for k in kept] for name, column in columns.items()}
    lines = [line for line, _ in rows]
    remarks = listed_twice(path, lines, all_paths, ({} if multi_label else {"labels": indexes}) | {"splits": splits})
    return ManifestSource(
        [all_paths[k] for k in kept],
        [indexes[k] for k in kept],
        names,
        multi_label,
        tuple(remarks),
        {name: [listed[k] for k in kept] for name, listed in beside.items()},
        values,
    )
