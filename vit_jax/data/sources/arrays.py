"""Images held in memory as one array: small sets, and anything decoded in advance."""

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from vit_jax.data.files import read_bytes
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
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
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
    try:
        with io.BytesIO(read_bytes(path)) as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} could not be read as an .npz file: {error}", "Write it with numpy.savez") from error
    if not {"images", "labels"} <= set(arrays):
        raise UserError(f"{path} holds the arrays {sorted(arrays)}", "Save it with images=, labels= and label_names=")
    names = arrays.get("label_names", range(int(arrays["labels"].max(initial=-1)) + 1))
    return ArraySource(arrays["images"], arrays["labels"], [str(name) for name in names])
