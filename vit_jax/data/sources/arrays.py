"""Images held in memory as one array: small sets, and anything decoded in advance."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from vit_jax.data.npz import read_npz
from vit_jax.data.source import check_class_count
from vit_jax.errors import UserError


class ArraySource:
    """Examples out of arrays in memory.

    Args:
        images: uint8 [N, H, W, 3]; for the field "bands" also uint16 or floats, of any number of channels C.
        labels: class indices [N], each below `len(label_names)`.
        label_names: names of the classes.
        fields: further arrays of N rows, by the names that examples have them under. With them, images and labels may
            be None.

    Raises:
        UserError: when shapes, types and names do not belong together.
    """

    in_memory = True

    def __init__(
        self,
        images: Shaped[np.ndarray, "n h w c"] | None,
        labels: Int[np.ndarray, " n"] | None,
        label_names: Sequence[str],
        fields: Mapping[str, Shaped[np.ndarray, "n *rest"]] = MappingProxyType({}),
    ):
        rows = next((array for array in (images, labels, *fields.values()) if array is not None), None)
        if rows is None:
            raise UserError("There are no arrays", "Give images, labels, or fields")
        for name, array in fields.items():
            if array.shape[:1] != rows.shape[:1] or array.dtype.kind not in "biufUS":
                raise UserError(
                    f"The array {name!r} is {array.dtype} {list(array.shape)} beside {len(rows)} examples",
                    "Give a row of numbers, or a text, for each",
                )
        self._length = len(rows)
        if images is not None:
            self._check_images(images)
        if labels is not None:
            self._check_labels(labels, self._length, label_names)
        self.images = images
        if labels is not None:
            self.labels = labels.astype(np.int32)
        self._fields = dict(fields)
        given = {"image": images, "label": labels, **fields}
        self.field_names = frozenset(name for name, array in given.items() if array is not None)
        self.label_names = tuple(str(name) for name in label_names)

    def _check_images(self, images: np.ndarray) -> None:
        if images.dtype.kind not in "uif" or images.ndim != 4 or 0 in images.shape[1:]:
            raise UserError(
                f"Images are numbers [N, H, W, C], these are {images.dtype} {list(images.shape)}",
                "Stack them along a first axis, and put channels last, a single one too: images[..., None]",
            )

    def _check_labels(self, labels: np.ndarray, length: int, label_names: Sequence[str]) -> None:
        if labels.shape != (length,) or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(
                f"Labels must be integers [{length}], these are {labels.dtype} {list(labels.shape)}",
                "Give one class index per image",
            )
        if len(labels) and (labels.min() < 0 or labels.max() >= len(label_names)):
            raise UserError(
                f"Labels run from {labels.min()} to {labels.max()}, but there are {len(label_names)} label names",
                "Number the classes from 0",
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        example: dict[str, Any] = {name: _value(array[index]) for name, array in self._fields.items()}
        if "image" in self.field_names:
            example["image"] = self.images[index]
        if "label" in self.field_names:
            example["label"] = int(self.labels[index])
        return example


def build(path: str, fields: Sequence[str] = ()) -> ArraySource:
    """Reads an .npz file with `images` [N, H, W, C], `labels` [N] and optionally `label_names` [K].

    Images are uint8 RGB, for the field "bands" numbers of any number of channels.

    Args:
        path: the file.
        fields: further arrays of it with a row for each example: numbers of any shape, or texts. With them the file
            may lack images and labels.

    Raises:
        UserError: when the file is missing, is not such a file, or its arrays do not belong together.
    """
    arrays = read_npz(path, ("images", "labels", "label_names", *fields))
    for name in fields or ("images", "labels"):
        if name not in arrays and fields:
            raise UserError(f"{path} holds no array {name!r}", f"Save it with {name}=, or leave the field out")
        if name not in arrays:
            raise UserError(f"{path} holds no array {name!r}", "Save it with images=, labels= and label_names=")
    labels, names = arrays.get("labels"), arrays.get("label_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "USiu"):
        raise UserError(f"label_names in {path} are {names.dtype} {list(names.shape)}", "Give a list of texts")
    if names is None and labels is not None and labels.dtype.kind in "iu":
        names = range(check_class_count(path, int(labels.max()) + 1 if labels.size else 0))
    names = [_text(name) for name in ([] if names is None else names)]
    return ArraySource(arrays.get("images"), labels, names, {name: arrays[name] for name in fields})


def _value(row: Any) -> Any:
    """A row of an array; a text as such."""
    return row.item() if isinstance(row, np.generic) and row.dtype.kind in "US" else row


def _text(name: Any) -> str:
    """A name that is text, or bytes in UTF-8."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
