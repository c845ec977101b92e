"""Boxes on an image, and what is in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, UInt8

from vit_jax.data import drawing
from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.fields.points import padded, rows_of
from vit_jax.data.geometry import Image
from vit_jax.data.palettes import colors_for
from vit_jax.data.placement import Placement
from vit_jax.errors import UserError
from vit_jax.ranges import Count, Natural, NonNegative

# Where left, top, right (or width) and bottom (or height) stand in a row.
_ORDERS = {"xyxy": (0, 1, 2, 3), "xywh": (0, 1, 2, 3), "yxyx": (1, 0, 3, 2)}


@dataclass(frozen=True)
class Boxes(Field):
    """float32 [count, 4] of (left, top, right, bottom) in pixels of the view, and bool NAME_valid [count].

    A box that a view cuts is what is left of it; one of which less than `min_area` square pixels are left is gone. Of
    more than `count` the largest are kept, in the source's order, and int32 NAME_dropped [] says how many were not.
    With `classes`, int32 NAME_class [count] is what is in each.
    """

    count: int
    classes: int = 0
    format: str = "xyxy"
    unit: str = "pixels"
    min_area: float = 1.0
    names: tuple[str, ...] = ()
    in_plane: ClassVar[bool] = True

    @property
    def numbers_classes(self) -> bool:
        return self.classes > 0

    def spec(self, name: str) -> dict[str, Spec]:
        found = {name: Spec((self.count, 4), "float32"), f"{name}_valid": Spec((self.count,), "bool", 2)}
        if self.classes:
            found[f"{name}_class"] = Spec((self.count,), "int32", self.classes)
        return {**found, f"{name}_dropped": Spec((), "int32")}

    def read(self, raw: Any, where: str, plane: Plane | None) -> Float[np.ndarray, "n c"]:
        """Rows of left, top, right, bottom and, with classes, the class."""
        rows = rows_of(raw, 5 if self.classes else 4, where)
        corners, kinds = rows[:, _ORDERS[self.format]], rows[:, 4:]
        if self.format == "xywh":
            corners[:, 2:] += corners[:, :2]
        if self.unit == "fraction":
            corners = corners * np.array([plane[1], plane[0]] * 2)
        if (corners[:, 2:] < corners[:, :2]).any():
            raise UserError(f"{where} has a box that ends before it begins", f"Give boxes as {self.format}")
        if ((kinds < 0) | (kinds >= max(self.classes, 1)) | (kinds != np.floor(kinds))).any():
            raise UserError(f"{where} has a class outside the {self.classes} of the field", "Number them from 0")
        return np.concatenate([corners, kinds], axis=1)

    def move(self, value: Float[np.ndarray, "n c"], placement: Placement) -> Float[np.ndarray, "n c"]:
        return np.concatenate([placement.boxes(value[:, :4]), value[:, 4:]], axis=1)

    def batched(self, name: str, value: Float[np.ndarray, "n c"]) -> dict[str, Any]:
        area = (value[:, 2] - value[:, 0]) * (value[:, 3] - value[:, 1])
        seen = np.flatnonzero(area >= max(self.min_area, np.finfo(np.float32).tiny))
        kept = np.sort(seen[np.argsort(-area[seen], kind="stable")][: self.count])
        found = {
            name: padded(value[kept, :4], self.count, np.float32),
            f"{name}_valid": np.arange(self.count) < len(kept),
        }
        if self.classes:
            found[f"{name}_class"] = padded(value[kept, 4], self.count, np.int32)
        return {**found, f"{name}_dropped": len(seen) - len(kept)}

    def draw(self, image: Image, name: str, row: Mapping[str, Any], times: int) -> Image:
        valid = row[f"{name}_valid"]
        kinds = row[f"{name}_class"] if self.classes else np.zeros(len(valid), int)
        return drawing.boxes(image, row[name][valid], kinds[valid], times, self._colors)

    def legend(self, name: str, row: Mapping[str, Any]) -> dict[str, drawing.Color]:
        if not self.names:
            return {}
        return drawing.occurring(row[f"{name}_class"][row[f"{name}_valid"]], self.names, self._colors)

    @property
    def _colors(self) -> UInt8[np.ndarray, "K 3"] | None:
        return colors_for(self.names) if self.names else None

    def to_json(self) -> dict[str, Any]:
        own = {"count": self.count, "classes": self.classes, "format": self.format, "unit": self.unit}
        return {"name": "boxes", **own, "min_area": self.min_area}


def build(
    *,
    data: Context,
    count: Count,
    classes: Natural = 0,
    format: Literal["xyxy", "xywh", "yxyx"] = "xyxy",
    unit: Literal["pixels", "fraction"] = "pixels",
    min_area: NonNegative = 1.0,
) -> Boxes:
    """Up to `count` boxes of each image, given as [n, 4] or, with `classes`, [n, 5], also as JSON.

    Args:
        classes: how many there are of the fifth number; 0 for boxes without. Where the source has as many names, they
            are those of these classes.
        format: the order of left (x), top (y), right and bottom, or width and height (COCO's "xywh").
        unit: whether they are "pixels" of the image or a "fraction" of its sides (TFDS's are, in "yxyx").
        min_area: of what a view leaves of a box, in square pixels of the view.
    """
    names = data.label_names if classes == len(data.label_names) else ()
    return Boxes(count, classes, format, unit, min_area, names)
