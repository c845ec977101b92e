"""Images with outlined objects as COCO lists them (arXiv:1405.0312; format: cocodataset.org/#format-data): one JSON of
images, annotations and categories. What `vit_jax annotate` writes has the same form."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.data.decode import read_file
from vit_jax.data.files import from_here, is_remote, read_bytes
from vit_jax.data.source import check_class_count
from vit_jax.errors import UserError, shortened

_HOW = "Give the JSON of instances, such as instances_train2017.json"


class CocoSource:
    """Encoded images, read when they are asked for, with the masks and boxes of their objects.

    Args:
        paths: of the images.
        objects: of each image, a JSON text of `[{"segmentation", "class"}, ...]`: Python's lists of numbers would take
            several times the memory, and a worker process has a copy.
        boxes: of each image, [n, 5] of left, top, right, bottom and class.
        label_names: names of the classes, the first "background".
        image_ids: the file's own number of each image, by which results are compared.
        category_ids: the file's own number of each class; 0 for the background.
        remarks: what whoever starts a run may want to know, a sentence each.
    """

    field_names = frozenset({"image", "masks", "boxes"})

    def __init__(
        self,
        paths: Sequence[str],
        objects: Sequence[str],
        boxes: Sequence[np.ndarray],
        label_names: Sequence[str],
        image_ids: Sequence[int],
        category_ids: Sequence[int],
        remarks: Sequence[str] = (),
    ):
        self.paths, self._objects, self._boxes = list(paths), list(objects), list(boxes)
        self.label_names, self.remarks = tuple(label_names), tuple(remarks)
        self.image_ids, self.category_ids = tuple(image_ids), tuple(category_ids)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        return {"image": read_file(path), "masks": self._objects[index], "boxes": self._boxes[index], "path": path}


def build(annotations: str, images: str, empty: bool = False, allow_outside: bool = False) -> CocoSource:
    """Reads the list; nothing of an object is drawn before it is asked for. Classes are numbered as the file lists its
    categories, from 1: 0 is the background, as in other sources of scenes. Annotations of crowds (`iscrowd`) are left
    out.

    Args:
        annotations: the JSON file; a relative path starts where the command was started.
        images: folder of the images.
        empty: whether images without objects are examples too: for detection, not for masks.
        allow_outside: whether names of images may lead out of the folder.

    Raises:
        UserError: for a file that is missing or of another format, an annotation of an image or category that the file
            does not list, and an image whose name leads out of the folder.
    """
    listed, found, categories = _read(annotations)
    names = ("background", *(name for _, name in categories))
    check_class_count(annotations, len(names))
    numbers = {number: k for k, (number, _) in enumerate(categories, 1)}
    objects: dict[int, list[Any]] = {number: [] for number, _ in listed}
    boxes: dict[int, list[Any]] = {number: [] for number, _ in listed}
    for k, image, category, (left, top, width, height), segmentation in found:
        for number, of, what in ((image, objects, "image"), (category, numbers, "category")):
            if number not in of:
                raise UserError(
                    f"Entry {k} of annotations in {from_here(annotations)} is of the {what} {number}, which it does not"
                    " list",
                    "Mend or remove it",
                )
        objects[image].append({"segmentation": segmentation, "class": numbers[category]})
        boxes[image].append((left, top, left + width, top + height, numbers[category]))
    kept = [
        (number, _path(annotations, images, name, allow_outside)) for number, name in listed if objects[number] or empty
    ]
    if not kept:
        raise UserError(f"{from_here(annotations)} has no image with an object", _HOW)
    left_out = len(listed) - len(kept)
    remarks = [f"{left_out} of {len(listed)} images in {annotations} have no objects and are left out."]
    return CocoSource(
        [path for _, path in kept],
        [json.dumps(objects[number], separators=(",", ":")) for number, _ in kept],
        [np.array(boxes[number], np.float64).reshape(-1, 5) for number, _ in kept],
        names,
        [number for number, _ in kept],
        [0, *(number for number, _ in categories)],
        remarks if left_out else (),
    )


def _read(
    path: str,
) -> tuple[list[tuple[int, str]], list[tuple[int, int, int, list[float], Any]], list[tuple[int, str]]]:
    """Number and file of each image; entry, image, category, box and segmentation of each object; number and name of
    each category."""
    try:
        content = json.loads(read_bytes(path))
    except OSError as error:
        raise UserError(f"{from_here(path)} could not be read: {error.strerror or error}", "Check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{from_here(path)} is no JSON: {shortened(str(error), 100)}", _HOW) from error
    parts = ("images", "annotations", "categories")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(name), list) for name in parts):
        raise UserError(f"{from_here(path)} has not the lists images, annotations and categories of COCO", _HOW)
    for name, kinds in (
        ("images", {"id": int, "file_name": str}),
        ("categories", {"id": int, "name": str}),
        ("annotations", {"image_id": int, "category_id": int, "bbox": list, "segmentation": (list, dict)}),
    ):
        for k, row in enumerate(content[name]):
            for key, kind in kinds.items():
                if not isinstance(row, Mapping) or not isinstance(row.get(key), kind):
                    raise UserError(f"Entry {k} of {name} in {from_here(path)} has no {key!r} as COCO's have it", _HOW)
    found = []
    for k, row in enumerate(content["annotations"]):
        if row.get("iscrowd"):
            continue
        box = row["bbox"]
        numbers = len(box) == 4 and all(isinstance(side, (int, float)) and abs(side) < 2**31 for side in box)
        if not numbers or min(box[2:]) < 0:
            raise UserError(
                f"Entry {k} of annotations in {from_here(path)} has the box {shortened(repr(box), 60)}", _HOW
            )
        found.append((k, row["image_id"], row["category_id"], box, row["segmentation"]))
    listed = [(row["id"], row["file_name"]) for row in content["images"]]
    categories = [(row["id"], row["name"]) for row in content["categories"]]
    for name, rows in (("images", listed), ("categories", categories)):
        if len({number for number, _ in rows}) != len(rows):
            raise UserError(f"Two of the {name} in {from_here(path)} have the same id", _HOW)
    return listed, found, categories


def _path(annotations: str, folder: str, name: str, allow_outside: bool) -> str:
    outside = os.path.isabs(name) or is_remote(name) or ".." in name.replace("\\", "/").split("/")
    if outside and not allow_outside:
        raise UserError(
            f"The image {shortened(repr(name), 100)} in {from_here(annotations)} leads out of {folder}",
            "If you trust the list, set allow_outside=True, or images to a folder above them",
        )
    return name if is_remote(name) else os.path.join(folder, name)
