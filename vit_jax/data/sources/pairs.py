"""Pictures and what is said of them: a CSV or JSONL file that gives the path of each image and one text or several."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vit_jax.data.decode import read_file
from vit_jax.data.manifest_labels import labels_of
from vit_jax.data.manifest_rows import (
    listed_twice,
    no_text,
    paths_of,
    read_rows,
    refuse,
    refuse_missing,
    report,
    rows_by_file,
    splits_of,
)  # fmt: skip
from vit_jax.errors import UserError


class PairSource:
    """Encoded images by path, read when they are asked for, and their texts, held in memory.

    Args:
        paths: of the images.
        texts: of each image, one or more.
        labels: class index of each image; None for none.
        label_names: names of the classes.
        remarks: what whoever starts a run may want to know, a sentence each.
    """

    def __init__(
        self,
        paths: Sequence[str],
        texts: Sequence[Sequence[str]],
        labels: Sequence[int] | None = None,
        label_names: Sequence[str] = (),
        remarks: Sequence[str] = (),
    ):
        self.paths = list(paths)
        # A list of one would cost more memory than its text.
        self.texts = [list(of) if len(of) > 1 else of[0] for of in texts]
        if labels is not None:
            self.labels = list(labels)
        self.label_names, self.remarks = tuple(label_names), tuple(remarks)
        self.field_names = frozenset({"image", "text"} | (set() if labels is None else {"label"}))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        found: dict[str, Any] = {"image": read_file(path), "text": self.texts[index], "path": path}
        return found if "label" not in self.field_names else {**found, "label": self.labels[index]}


def build(
    path: str,
    text_key: str | Sequence[str] = "text",
    root: str | None = None,
    split: str | None = None,
    label_key: str | None = None,
    label_names: Sequence[str] | str | None = None,
    path_key: str = "path",
    split_key: str = "split",
    repeated: Literal["fail", "join"] = "fail",
    check_files: bool = True,
    allow_outside: bool = False,
) -> PairSource:
    """Reads a manifest as the source `manifest` does: CSV with a header line or JSONL, in UTF-8.

    Of the texts of an image the field `tokens` shows one: in training any, drawn anew each epoch, in evaluation the
    first.

    Args:
        path: the manifest; a relative one starts where the command was started.
        text_key: column of the CSV, or key of the objects: a text, or in JSONL a list of texts. Of several keys, all
            texts in their order; there a row may have none under some of them.
        root: what the paths in it are relative to, its own folder by default.
        split: keep the rows whose `split_key` says this; all rows by default.
        label_key: of a class; examples have no "label" by default.
        label_names: the classes in order, or a text file with one a line; what the manifest uses by default.
        path_key, split_key: columns or keys of the images' paths and of the splits.
        repeated: where an image is listed again with another text: "fail", or "join" its texts, as lists with a row
            for each caption mean it.
        check_files: look for every file now, rather than when it is its turn.
        allow_outside: follow paths out of the root, see the source `manifest`.

    Raises:
        UserError: naming the first bad line and how many there are, for rows without an image, with no text or an
            empty one, and images that are missing, empty, out of the root, or listed again with another text or, where
            they are joined, another label; for bad labels and files as `manifest` does.
    """
    path = os.path.expanduser(path)
    root = os.path.expanduser(root) if root is not None else os.path.dirname(path)
    keys = (text_key,) if isinstance(text_key, str) else tuple(text_key)
    if not keys:
        raise UserError("text_key is empty", "Name the column of the texts")
    rows = read_rows(path, (path_key, *keys, *([label_key] if label_key else []), split_key))
    refuse(path, rows, functools.partial(no_text, path_key), f"no {path_key!r}")
    texts = [_texts(row, keys) for _, row in rows]
    lines = [line for line, _ in rows]
    shown = " or ".join(map(repr, keys))
    report(path, [n for n, of in zip(lines, texts, strict=True) if of is None], len(rows), f"no text as {shown}")
    report(path, [n for n, of in zip(lines, texts, strict=True) if not all(of)], len(rows), "an empty text")
    splits = splits_of(path, rows, split, split_key)
    names, labels = [], None
    if label_key is not None:
        names, of_row = labels_of(path, rows, label_key, False, "", label_names)
        labels = [label for (label,) in of_row]
    elif label_names is not None:
        raise UserError("label_names are given without a label_key", "Set label_key too")
    images = paths_of(path, rows, path_key, root, allow_outside)
    remarks = list(listed_twice(path, lines, images, {"splits": splits}))
    kept = [k for k, of in enumerate(splits) if of == split]
    if check_files:
        refuse_missing(path, root, [lines[k] for k in kept], [images[k] for k in kept])
    joined = _joined(path, {k: images[k] for k in kept}, lines, texts, labels, repeated)
    return PairSource(
        [images[k] for k in joined],
        list(joined.values()),
        None if labels is None else [labels[k] for k in joined],
        names,
        remarks,
    )


def _texts(row: Mapping[str, Any], keys: Sequence[str]) -> list[str] | None:
    """The texts of a row, blanks around them left out, so that what is empty is ""; None where there are none."""
    found: list[Any] = []
    for key in keys:
        value = row.get(key)
        values = value if isinstance(value, list) else [value]
        if len(keys) > 1 and values in ([None], [""]):
            continue
        found += values
    if not found or not all(isinstance(text, str) for text in found):
        return None
    return list(dict.fromkeys(text.strip() for text in found))


def _joined(
    path: str,
    images: Mapping[int, str],
    lines: Sequence[int],
    texts: Sequence[list[str]],
    labels: Sequence[int] | None,
    repeated: str,
) -> dict[int, list[str]]:
    """Of each image the first row, and its texts of all rows, each once."""
    rows = list(images)
    joined = {k: texts[k] for k in rows}
    groups = [[rows[i] for i in group] for group in rows_by_file(list(images.values()))]
    other = [(k, group[0]) for group in groups for k in group[1:] if texts[k] != texts[group[0]]]
    if other and repeated == "fail":
        again, first = min(other)
        raise UserError(
            f"{len(other)} of {len(rows)} lines of {path} list an image again with another text, first line"
            f" {lines[again]} that of line {lines[first]}",
            "Set repeated='join', for images of several captions, or remove the wrong lines",
        )
    for group in groups:
        for k in group[1:]:
            if labels is not None and labels[k] != labels[group[0]]:
                raise UserError(
                    f"{path} lists the image of line {lines[group[0]]} in line {lines[k]} with another label",
                    "Give an image one label",
                )
            joined[group[0]] = list(dict.fromkeys([*joined[group[0]], *joined.pop(k)]))
    return joined
