"""Texts out of text files or JSONL: the documents of a language model, or texts of a class each."""

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from vit_jax.data.text_files import JSON_LINES, class_indices, json_rows, numbered_lines, read_text, text_in, text_paths
from vit_jax.errors import UserError


class DocumentSource:
    """Texts held in memory, as "text", with "label" where they have classes.

    Args:
        texts: of the documents.
        places: where each comes from, for errors.
        labels: class index of each, or None.
        label_names: names of the classes.
    """

    def __init__(
        self,
        texts: Sequence[str],
        places: Sequence[str],
        labels: Int32[np.ndarray, " n"] | None = None,
        label_names: Sequence[str] = (),
    ):
        self._texts, self._places = list(texts), list(places)
        if labels is not None:
            self.labels = labels
        self.label_names = tuple(label_names)
        self.field_names = frozenset({"text"} if labels is None else {"text", "label"})

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = {"text": self._texts[index], "path": self._places[index]}
        if "label" in self.field_names:
            found["label"] = int(self.labels[index])
        return found


def build(
    paths: str | Sequence[str],
    each: Literal["file", "paragraph", "line"] = "file",
    text_key: str = "text",
    label_key: str | None = None,
    folder_labels: bool = False,
    label_names: Sequence[str] | None = None,
) -> DocumentSource:
    """Reads text files in UTF-8, and JSONL files (.jsonl, .ndjson) with an object for each document.

    Args:
        paths: a file, or several, or patterns such as "texts/**/*.txt"; relative ones start where the command was
            started.
        each: what a document is in a text file: the whole "file", a "paragraph" (lines without an empty one between
            them) or a "line". In JSONL it is always a line.
        text_key: the text in an object of JSONL.
        label_key: the class in an object of JSONL, a name or an index; None for none.
        folder_labels: whether the class of a text is the name of its file's folder.
        label_names: the classes in order; by default those that are found, sorted. Give them where training and
            evaluation have files of their own.

    Raises:
        UserError: for files that are missing, empty or not UTF-8 (with the line), lines of JSONL that are no objects or
            have no text or label, and labels that are not among `label_names`.
    """
    if label_key is not None and folder_labels:
        raise UserError("The documents have classes twice", "Set label_key=None or folder_labels=False")
    texts: list[str] = []
    places: list[str] = []
    labels: list[Any] = []
    for path in text_paths(paths):
        rows = list(_documents(path, each, text_key, label_key))
        texts += [text for text, _, _ in rows]
        places += [place for _, place, _ in rows]
        folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
        labels += [folder if folder_labels else label for _, _, label in rows]
    if label_key is None and not folder_labels:
        return DocumentSource(texts, places)
    return DocumentSource(texts, places, *class_indices(labels, places, label_names))


def _documents(path: str, each: str, text_key: str, label_key: str | None) -> list[tuple[str, str, Any]]:
    """Text, place and label of each document of one file."""
    if path.lower().endswith(JSON_LINES):
        found = []
        for number, row in json_rows(path):
            place = f"Line {number} of {path}"
            text = text_in(row, text_key, place)
            if label_key is not None and label_key not in row:
                raise UserError(f"{place} has no {label_key!r}", "Give each text one, or set label_key=None")
            found.append((text, place, row.get(label_key)))
        return found
    if label_key is not None:
        raise UserError(f"{path} is no JSONL and has no {label_key!r}", "Set label_key=None, or folder_labels=True")
    if each == "file":
        return [(read_text(path), path, None)]
    if each == "line":
        return [(line, f"Line {number} of {path}", None) for number, line in numbered_lines(path)]
    return [("\n".join(lines), f"Line {number} of {path}", None) for number, lines in _paragraphs(path)]


def _paragraphs(path: str) -> list[tuple[int, list[str]]]:
    """First line's number and lines of each."""
    found: list[tuple[int, list[str]]] = []
    last = 0
    for number, line in numbered_lines(path):
        if found and number == last + 1:
            found[-1][1].append(line)
        else:
            found.append((number, [line]))
        last = number
    return found
