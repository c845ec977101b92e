"""CIFAR-10 and CIFAR-100 as their authors give them: "python version", pickles of NumPy arrays."""

import os
from typing import Any, Literal

import numpy as np

from vit_jax.data.files import from_here
from vit_jax.data.plain_pickle import read_pickle
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.errors import UserError

_SIDE = 32
# The folders that the archives unpack to, the file with the names of each, and the files of its splits.
_TEN, _HUNDRED = "cifar-10-batches-py", "cifar-100-python"
_META = {_TEN: "batches.meta", _HUNDRED: "meta"}
_FILES = {
    _TEN: {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]},
    _HUNDRED: {"train": ["train"], "test": ["test"]},
}


def build(root: str, split: str, labels: Literal["fine", "coarse"] = "fine") -> ArraySource:
    """Reads the folder `cifar-10-batches-py` or `cifar-100-python` (Krizhevsky, "Learning multiple layers of features
    from tiny images", 2009): 50,000 images of 32x32 pixels to train on and 10,000 to test, in memory.

    The files are pickles. They are read by a reader that knows plain values and NumPy arrays alone, see
    `vit_jax.data.plain_pickle`: nothing in them is run.

    Args:
        root: that folder, or the one that it is in.
        split: "train" or "test".
        labels: of CIFAR-100 its 100 classes, or the 20 "coarse" ones.

    Raises:
        UserError: when the folder or a file is missing, damaged, holds something else than images and labels, or
            anything but plain values and arrays; when labels are outside the classes.
    """
    if split not in ("train", "test"):
        raise UserError(f"CIFAR has no split {split!r}", "Use 'train' or 'test'")
    folder, kind = _folder(os.path.expanduser(root))
    if labels == "coarse" and kind == _TEN:
        raise UserError("CIFAR-10 has no coarse labels", "Leave labels out, or use CIFAR-100")
    meta = os.path.join(folder, _META[kind])
    key = "label_names" if kind == _TEN else f"{labels}_label_names"
    names = _get(read_pickle(meta), key, meta)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise UserError(f"{meta} holds no list of names {key!r}", "Fetch it again")
    parts = [_part(os.path.join(folder, file), kind, labels, len(names)) for file in _FILES[kind][split]]
    images, numbers = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return ArraySource(images, numbers, [name.decode("latin1") if isinstance(name, bytes) else name for name in names])


def _folder(root: str) -> tuple[str, str]:
    """The folder with the files, and which of the two sets it is."""
    for folder in (root, *(os.path.join(root, name) for name in _META)):
        for kind, meta in _META.items():
            if os.path.isfile(os.path.join(folder, meta)):
                return folder, kind
    raise UserError(
        f"{from_here(root)} holds no {_TEN} and no {_HUNDRED}",
        "Unpack cifar-10-python.tar.gz or cifar-100-python.tar.gz there",
    )


def _part(path: str, kind: str, labels: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one file."""
    batch = read_pickle(path)
    data = _get(batch, "data", path)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * _SIDE**2:
        raise UserError(f"{path} holds no images of {_SIDE}x{_SIDE} pixels", "Fetch it again")
    numbers = _get(batch, "labels" if kind == _TEN else f"{labels}_labels", path)
    if not isinstance(numbers, list) or len(numbers) != len(data) or not all(type(label) is int for label in numbers):
        raise UserError(f"{path} holds no label for each of its {len(data)} images", "Fetch it again")
    outside = next((label for label in numbers if not 0 <= label < classes), None)
    if outside is not None:
        raise UserError(f"{path} has the label {outside:.10g}, outside its {classes} classes", "Fetch it again")
    images = data.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(numbers, np.int64)


def _get(batch: Any, key: str, path: str) -> Any:
    """A value of a dictionary, whose keys may be bytes."""
    if isinstance(batch, dict):
        for name in (key, key.encode()):
            if name in batch:
                return batch[name]
    raise UserError(f"{path} holds no {key!r}", "Fetch it again")
