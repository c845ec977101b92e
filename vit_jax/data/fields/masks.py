"""Objects' masks: however many an image has, some of them in slots of a fixed number."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vit_jax.data import drawing, geometry
from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.fields.points import padded
from vit_jax.data.geometry import Image
from vit_jax.data.placement import Placement
from vit_jax.data.regions import Regions, regions
from vit_jax.errors import UserError
from vit_jax.ranges import Count, Natural, NonNegative


class Placed(NamedTuple):
    """What a view shows of an image's objects.

    Args:
        masks: 1 where each is, as many as are kept.
        kinds: number of each one's class.
        passed_over: how many were not looked at.
    """

    masks: UInt8[np.ndarray, "n h w"]
    kinds: Sequence[int]
    passed_over: int


@dataclass(frozen=True)
class Masks(Field):
    """uint8 [max_objects, h, w], 1 where each object is, and bool NAME_valid [max_objects]; see `build`."""

    max_objects: int
    size: tuple[int, int]
    classes: int = 0
    min_area: float = 1.0
    in_plane: ClassVar[bool] = True

    @property
    def numbers_classes(self) -> bool:
        return self.classes > 0

    def spec(self, name: str) -> dict[str, Spec]:
        found = {name: Spec((self.max_objects, *self.size), "uint8", 2)}
        found[f"{name}_valid"] = Spec((self.max_objects,), "bool", 2)
        if self.classes:
            found[f"{name}_class"] = Spec((self.max_objects,), "int32", self.classes)
        return {**found, f"{name}_dropped": Spec((), "int32")}

    def choose(self, raw: Any, where: str, rng: np.random.Generator | None) -> Any:
        """All objects; in training in a random order, of which the first that the view shows fill the slots."""
        if rng is None:
            return raw
        found = regions(raw, where)
        return [found[k] for k in rng.permutation(len(found))]

    def read(self, raw: Any, where: str, plane: Plane | None) -> Regions:
        found = Regions(tuple(regions(raw, where)), plane, where)
        if self.classes and max(found.classes) >= self.classes:
            raise UserError(
                f"{where} has the class {max(found.classes)}, outside the {self.classes} of the field",
                "Number them from 0",
            )
        return found

    def move(self, value: Regions, placement: Placement) -> Placed:
        # It says where the view is by shares of its size.
        taken = dataclasses.replace(placement, size=self.size).dense_of(value.plane)
        kept, kinds, looked_at = [], [], 0
        for region in value:
            if len(kept) == self.max_objects:
                break
            mask = taken(region.mask(value.plane, value.where), 0)
            if mask.sum() >= max(self.min_area, 1):
                kept.append(mask)
                kinds.append(region.kind)
            looked_at += 1
        masks = np.stack(kept) if kept else np.zeros((0, *self.size), np.uint8)
        return Placed(masks, kinds, len(value) - looked_at)

    def batched(self, name: str, value: Placed) -> dict[str, Any]:
        found = {
            name: padded(value.masks, self.max_objects, np.uint8),
            f"{name}_valid": np.arange(self.max_objects) < len(value.masks),
        }
        if self.classes:
            found[f"{name}_class"] = padded(np.array(value.kinds, np.int32), self.max_objects, np.int32)
        return {**found, f"{name}_dropped": value.passed_over}

    def draw(self, image: Image, name: str, row: Mapping[str, Any], times: int) -> Image:
        return drawing.masks(image, row[name][row[f"{name}_valid"]])

    def to_json(self) -> dict[str, Any]:
        own = {"max_objects": self.max_objects, "mask_size": list(self.size), "classes": self.classes}
        return {"name": "masks", **own, "min_area": self.min_area}


def build(
    *,
    data: Context,
    max_objects: Count,
    mask_size: Count | Sequence[int] | None = None,
    classes: Natural = 0,
    min_area: NonNegative = 1.0,
) -> Masks:
    """Masks of up to `max_objects` of an image's objects, moved with the image and taken from the nearest pixel. A
    source gives them as `vit_jax.data.regions.regions` says; they are drawn only if they are kept.

    Of more objects than slots, training keeps a random choice of those that the view shows, another in every epoch and
    the same for the same seed; evaluation keeps the first. int32 NAME_dropped [] counts those that were not looked at.

    Args:
        mask_size: (height, width) of the masks, or one number for squares; by default the image's. Segment Anything
            has masks of 256 for images of 1024 pixels.
        classes: how many classes the objects have; with them int32 NAME_class [max_objects] is what each is.
        min_area: of what a view shows of an object, in pixels of the mask, for it to be kept.
    """
    if data.preprocess is None:
        raise UserError("A field of masks has no size", "Set config.data.image_size to [height, width] in pixels")
    image = data.preprocess.image_size
    size = image if mask_size is None else geometry.size_pair(mask_size)
    if size[0] * image[1] != size[1] * image[0]:
        raise UserError(
            f"Masks of {size[1]}x{size[0]} have not the proportions of images of {image[1]}x{image[0]}",
            "Change mask_size",
        )
    return Masks(max_objects, size, classes, min_area)
