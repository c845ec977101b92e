"""What a detector found, in the form in which COCO compares results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vit_jax.errors import UserError


class CocoResults:
    """Rows for the images of a list of COCO: `image_id`, `category_id`, `bbox` [left, top, width, height], `score`.

    Args:
        annotations: the JSON file that lists images and categories.

    Raises:
        UserError: for a file of another form, or in which two images have one name.
    """

    def __init__(self, annotations: str):
        from vit_jax.data.sources import coco

        source = coco.build(annotations, images="", empty=True)
        self._file = annotations
        self._images: dict[str, int] = {}
        for path, number in zip(source.paths, source.image_ids, strict=True):
            name = Path(path).name
            if self._images.setdefault(name, number) != number:
                raise UserError(f"Two images of {annotations} are called {name}", "Give a list of one folder")
        self._categories = dict(zip(source.label_names, source.category_ids, strict=True))
        self.rows: list[dict[str, Any]] = []

    def add(self, path: Path, detections: Iterable[Mapping[str, Any]]) -> None:
        """Takes what was found on an image.

        Raises:
            UserError: for an image or a class that the list does not have.
        """
        if path.name not in self._images:
            raise UserError(f"{self._file} lists no image called {path.name}", "Give the images of that list")
        for one in detections:
            if one["class"] not in self._categories:
                raise UserError(
                    f"The model found {one['class']!r}, a category that {self._file} does not have",
                    "Give the list that it was trained with",
                )
            left, top, right, bottom = one["box"]
            box = [left, top, round(right - left, 1), round(bottom - top, 1)]
            numbers = {"image_id": self._images[path.name], "category_id": self._categories[one["class"]]}
            self.rows.append({**numbers, "bbox": box, "score": one["score"]})
