"""One of VTAB-1k's 19 tasks: out of TFDS with the labels that VTAB makes, or out of the folders that people pass on."""

import os
from typing import Any, Literal

import numpy as np

from vit_jax.data import tfds_folder
from vit_jax.data.decode import decode
from vit_jax.data.files import from_here, read_bytes
from vit_jax.data.sources.manifest import ManifestSource
from vit_jax.data.sources.tfds import TfdsSource
from vit_jax.data.vtab import VtabTask, task_of, tfds_split
from vit_jax.errors import UserError

_LISTS = {"train800": "train800.txt", "val200": "val200.txt", "train1000": "train800val200.txt", "test": "test.txt"}
_MOST_BYTES = 64 * 2**20


class VtabSource:
    """Images of a TFDS data set, each with the label that a task of VTAB makes of it."""

    def __init__(self, source: TfdsSource, task: VtabTask):
        self._source, self._task = source, task
        self.field_names = frozenset({"image", "label"})
        own = source.label_names
        self.label_names = own if len(own) == task.classes else tuple(map(str, range(task.classes)))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found, task = self._source[index], self._task
        image, path = found["image"], found["path"]
        if task.pixels != 1:
            image = decode(image, path) * np.uint8(task.pixels)
        if task.label is None:
            return {"image": image, "label": found["label"], "path": path}
        return {"image": image, "label": task.label(**{name: found[name] for name in task.labels}), "path": path}


def build(
    *,
    task: str,
    split: Literal["train800", "val200", "train1000", "test"],
    root: str | None = None,
) -> VtabSource | ManifestSource:
    """One split of one task.

    Args:
        task: a name out of `vit_jax.data.vtab.TASKS`.
        split: "train800" and "val200" to choose with, "train1000" (both) to train on at last, and "test".
        root: a folder with a folder for each task that holds the lists train800.txt, val200.txt, train800val200.txt and
            test.txt, of a path and a label in each line; or else where TFDS keeps its prepared data sets.

    Raises:
        UserError: for an unknown task, a data set that is not there or has another number of classes, and damaged
            lists.
    """
    known = task_of(task)
    root = os.path.expanduser(root) if root else None
    if root and os.path.isfile(path := os.path.join(root, task, _LISTS[split])):
        return _listed(path, known)
    folder = tfds_folder.find(known.dataset, root)
    train = tfds_folder.read(folder).splits["train"].size if folder else 0
    plain = list(known.labels) == ["label"]
    found = TfdsSource(
        known.dataset,
        tfds_split(known, split, train),
        root,
        "image",
        known.labels["label"] if plain else None,
        {} if plain else {name: (key,) for name, key in known.labels.items()},
    )
    if known.label is None and len(found.label_names) != known.classes:
        raise UserError(
            f"{known.dataset!r} has {len(found.label_names)} classes, and VTAB's {task} {known.classes}",
            "Prepare the version of it that VTAB used",
        )
    return VtabSource(found, known)


def _listed(path: str, task: VtabTask) -> ManifestSource:
    try:
        lines = read_bytes(path, _MOST_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{from_here(path)} could not be read: {error}", "Fetch it again") from error
    folder, paths, labels = os.path.dirname(path), [], []
    for number, line in enumerate(lines, 1):
        image, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not image or not label.isascii() or not label.isdecimal() or int(label) >= task.classes:
            raise UserError(
                f"Line {number} of {from_here(path)} is no path and a label below {task.classes}: {line[:80]!r}",
                "Write them as images/00001.jpg 3",
            )
        inside = os.path.normpath(image)
        if os.path.isabs(inside) or inside.startswith(".."):
            raise UserError(f"Line {number} of {from_here(path)} leads out of its folder", "Put the image below it")
        paths.append(os.path.join(folder, inside))
        labels.append([int(label)])
    if not paths:
        raise UserError(f"{from_here(path)} lists no images", "Fetch it again")
    return ManifestSource(paths, labels, [str(k) for k in range(task.classes)], multi_label=False)
