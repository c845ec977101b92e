"""SA-1B, of which Segment Anything learned (arXiv:2304.02643, section 5): a JSON of masks beside each image."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data.decode import UnreadableImage, read_file
from vit_jax.data.image_tree import cannot_list
from vit_jax.errors import UserError

_HOW = "Unpack it again: each image has the JSON of its masks beside it, sa_1.jpg and sa_1.json"


class Sa1bSource:
    """Images and their masks, both read when they are asked for.

    Args:
        paths: of the images.
        remarks: what whoever starts a run may want to know, a sentence each.
    """

    label_names: tuple[str, ...] = ()
    field_names = frozenset({"image", "masks", "boxes"})

    def __init__(self, paths: Sequence[str], remarks: Sequence[str] = ()):
        self.paths, self.remarks = list(paths), tuple(remarks)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        masks, boxes = _read(f"{os.path.splitext(path)[0]}.json")
        return {"image": read_file(path), "masks": masks, "boxes": boxes, "path": path}


def build(root: str) -> Sa1bSource:
    """Finds the unpacked images sa_*.jpg, in the folder itself and in those within it (sa_000000/, ...), in the order
    of their names. An example has its masks (as run lengths), and their boxes as [n, 4] of left, top, right, bottom:
    there are no classes.

    Args:
        root: the folder; a relative path starts where the command was started.

    Raises:
        UserError: for a folder that is not there or has no such images.
    """
    paths, alone = [], 0
    for folder, _, names in os.walk(root, onerror=_raise):
        known = set(names)
        images = [name for name in names if name.startswith("sa_") and name.endswith(".jpg")]
        there = [name for name in images if f"{name[:-4]}.json" in known]
        paths += [os.path.join(folder, name) for name in there]
        alone += len(images) - len(there)
    if not paths:
        raise UserError(f"{root} has no image sa_*.jpg with its JSON beside it", _HOW)
    remark = f"{alone} of {len(paths) + alone} images in {root} have no JSON beside them and are left out."
    return Sa1bSource(sorted(paths), (remark,) if alone else ())


def _raise(error: OSError) -> None:
    raise cannot_list(error.filename, error) from error


def _read(path: str) -> tuple[list[Any], np.ndarray]:
    """The masks and the boxes that a JSON lists."""
    try:
        rows = json.loads(read_file(path))["annotations"]
        masks = [row["segmentation"] for row in rows]
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UnreadableImage(f"{path} is no JSON of masks as SA-1B has them", _HOW) from error
    boxes[:, 2:] += boxes[:, :2]
    return masks, boxes
