"""Texts that belong together, two in each line of a TSV or JSONL file: translations, or a premise and a hypothesis."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from vit_jax.data.text_files import JSON_LINES, class_indices, json_rows, numbered_lines, text_in, text_paths
from vit_jax.errors import UserError
from vit_jax.naming import nearest

_DEFAULT = {"source": "source", "target": "target"}


class TextPairSource:
    """Texts held in memory: by the name of a field one, or several, of each example; with "label" where they have
    classes.

    Args:
        fields: by name the text, or texts, of each example.
        places: where each example comes from, for errors.
        labels: class index of each, or None.
        label_names: names of the classes.
    """

    def __init__(
        self,
        fields: Mapping[str, Sequence[str | list[str]]],
        places: Sequence[str],
        labels: Int32[np.ndarray, " n"] | None = None,
        label_names: Sequence[str] = (),
    ):
        self._fields = {name: list(texts) for name, texts in fields.items()}
        self._places = list(places)
        if labels is not None:
            self.labels = labels
        self.label_names = tuple(label_names)
        self.field_names = frozenset(fields) | (frozenset() if labels is None else {"label"})

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = {name: texts[index] for name, texts in self._fields.items()}
        if "label" in self.field_names:
            found["label"] = int(self.labels[index])
        return found | {"path": self._places[index]}


def build(
    paths: str | Sequence[str],
    fields: Mapping[str, str | Sequence[str]] | None = None,
    columns: Sequence[str] | None = None,
    label_key: str | None = None,
    label_names: Sequence[str] | None = None,
) -> TextPairSource:
    """Reads TSV files, whose fields are separated by tabs and never quoted, and JSONL files (.jsonl, .ndjson).

    Args:
        paths: a file, or several, or patterns; relative ones start where the command was started.
        fields: by the name of a field its column (in JSONL: key), or several for texts that one field takes together:
            {"text": ["premise", "hypothesis"]} for the field `token_pair`. By default "source" and "target" are those.
        columns: names of a TSV's columns where its first line does not say them.
        label_key: the column of the class, a name or an index; None for none.
        label_names: the classes in order; by default those that are found, sorted.

    Raises:
        UserError: for files that are missing, empty or not UTF-8 (with the line), lines with more or fewer fields than
            columns, without a text or with an empty one, and labels that are not among `label_names`.
    """
    wanted = {name: (key,) if isinstance(key, str) else tuple(key) for name, key in (fields or _DEFAULT).items()}
    texts: dict[str, list[Any]] = {name: [] for name in wanted}
    places: list[str] = []
    labels: list[Any] = []
    for path in text_paths(paths):
        for number, row in json_rows(path) if path.lower().endswith(JSON_LINES) else _tsv_rows(path, columns):
            place = f"Line {number} of {path}"
            for name, keys in wanted.items():
                found = [text_in(row, key, place) for key in keys]
                texts[name].append(found if len(keys) > 1 else found[0])
            if label_key is not None:
                if label_key not in row:
                    raise UserError(f"{place} has no {label_key!r}", nearest(label_key, row))
                labels.append(row[label_key])
            places.append(place)
    if label_key is None:
        return TextPairSource(texts, places)
    return TextPairSource(texts, places, *class_indices(labels, places, label_names))


def _tsv_rows(path: str, columns: Sequence[str] | None) -> Iterator[tuple[int, dict[str, str]]]:
    lines = numbered_lines(path)
    names = list(columns) if columns is not None else [name.strip() for name in next(lines)[1].split("\t")]
    if len(set(names)) != len(names):
        raise UserError(f"{path} has a column twice: {', '.join(names)}", "Give each a name of its own")
    count = 0
    for number, line in lines:
        values = line.split("\t")
        if len(values) != len(names):
            raise UserError(
                f"Line {number} of {path} has {len(values)} fields for the {len(names)} columns {', '.join(names)}",
                "Separate them by tabs; `columns` names them where the first line does not",
            )
        count += 1
        yield number, dict(zip(names, values, strict=True))
    if not count:
        raise UserError(f"{path} has no line of texts below its header", "Set columns, if it has no header")
