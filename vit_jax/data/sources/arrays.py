"""Images held in memory as one array: small sets, and anything decoded in advance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from vit_jax.data.npz import read_npz
from vit_jax.data.source import check_class_count
from vit_jax.errors import UserError


class ArraySource:
    """Examples out of arrays in memory.

    Args:
        images: uint8 [N, H, W, 3].
        labels: class indices [N], each below `len(label_names)`.
        label_names: names of the classes.

    Raises:
        UserError: when shapes, types and names do not belong together.
    """

    def __init__(self, images: UInt8[np.ndarray, "n h w 3"], labels: Int[np.ndarray, " n"], label_names: Sequence[str]):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:]:
            raise UserError(
                f"Images must be uint8 [N, H, W, 3], these are {images.dtype} {list(images.shape)}",
                "Scale grey or float images to 0..255 and repeat one channel three times",
            )
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(
                f"Labels must be integers [{len(images)}], these are {labels.dtype} {list(labels.shape)}",
                "Give one class index per image",
            )
        if len(labels) and (labels.min() < 0 or labels.max() >= len(label_names)):
            raise UserError(
                f"Labels run from {labels.min()} to {labels.max()}, but there are {len(label_names)} label names",
                "Number the classes from 0",
            )
        self.images = images
        self.labels = labels.astype(np.int32)
        self.label_names = tuple(str(name) for name in label_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": int(self.labels[index])}


def build(path: str) -> ArraySource:
    """Reads an .npz file with `images` uint8 [N, H, W, 3], `labels` [N] and optionally `label_names` [K].

    Raises:
        UserError: when the file is missing, is not such a file, or its arrays do not belong together.
    """
    arrays = read_npz(path, ("images", "labels", "label_names"))
    for name in ("images", "labels"):
        if name not in arrays:
            raise UserError(f"{path} holds no array {name!r}", "Save it with images=, labels= and label_names=")
    labels, names = arrays["labels"], arrays.get("label_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "USiu"):
        raise UserError(f"label_names in {path} are {names.dtype} {list(names.shape)}", "Give a list of texts")
    if names is None and labels.dtype.kind in "iu":
        names = range(check_class_count(path, int(labels.max()) + 1 if labels.size else 0))
    return ArraySource(arrays["images"], labels, [_text(name) for name in ([] if names is None else names)])


def _text(name: Any) -> str:
    """A name that is text, or bytes in UTF-8."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
