"""Images with a file each in which every pixel has the number of a class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.data.decode import read_file
from vit_jax.data.label_image import decode_labels
from vit_jax.errors import UserError

IGNORED = 255  # of no class


class ClassFiles:
    """Encoded images and the class of each pixel, read when they are asked for.

    Args:
        images: their paths.
        files: a palette or grey PNG for each.
        label_names: names of the classes.
        classes: the class of each number that a file may hold, `IGNORED` for none.
        remarks: what whoever starts a run may want to know, a sentence each.
    """

    field_names = frozenset({"image", "segmentation"})

    def __init__(
        self,
        images: Sequence[str],
        files: Sequence[str],
        label_names: Sequence[str],
        classes: Mapping[int, int],
        remarks: Sequence[str] = (),
    ):
        self.paths, self.files = list(images), list(files)
        self.label_names, self.remarks = tuple(label_names), tuple(remarks)
        self._classes = dict(classes)
        self._table = np.full(max(classes) + 2, IGNORED, np.uint8)
        self._table[list(classes)] = list(classes.values())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.files[index]
        numbers = decode_labels(read_file(path), path)
        for number in np.unique(numbers).tolist():
            if number not in self._classes:
                raise UserError(
                    f"{path} has the number {number} in it, which is no class of this set",
                    f"There are {len(self.label_names)} classes: check that it holds labels, or name more classes",
                )
        return {"image": read_file(self.paths[index]), "segmentation": self._table[numbers], "path": self.paths[index]}
