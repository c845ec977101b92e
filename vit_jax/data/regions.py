"""Objects' pixels as annotations store them: polygons and run lengths of COCO, PNGs, arrays. Nothing is drawn before it
is asked for, so that of a hundred objects those cost time that are looked at."""

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from vit_jax.data.decode import UnreadableImage, decode_rgba
from vit_jax.data.field import Plane
from vit_jax.data.image_header import read_header
from vit_jax.data.label_image import decode_labels
from vit_jax.errors import UserError, shortened

_PNG = b"\x89PNG\r\n\x1a\n"
_HOW = "Give COCO's polygons or run lengths, a PNG or an array [H, W] for each object, or [N, H, W] for all"


@dataclass(frozen=True)
class Region:
    """One object.

    Args:
        stored: polygons [[x, y, x, y, ...], ...] in pixels, COCO's {"size", "counts"}, a PNG (its alpha channel if it
            has one, else what is not 0), or an array [H, W].
        kind: number of its class.
        number: where `stored` has the numbers of several objects, its own.
    """

    stored: Any
    kind: int = 0
    number: int | None = None

    def mask(self, plane: Plane, where: str) -> UInt8[np.ndarray, "H W"]:
        """1 where the object is, else 0, on an image of (height, width) `plane`.

        Raises:
            UnreadableImage: where it does not decode.
            UserError: where it is of another size than the image, and without pycocotools, which draws COCO's.
        """
        values = self._drawn(plane, where)
        if values.shape != tuple(plane):
            raise UserError(
                f"{where} has a mask of {values.shape[1]}x{values.shape[0]} on an image of {plane[1]}x{plane[0]}",
                "Make it as large as its image",
            )
        return (values == self.number if self.number is not None else values != 0).astype(np.uint8)

    def _drawn(self, plane: Plane, where: str) -> Shaped[np.ndarray, "H W"]:
        if isinstance(self.stored, bytes):
            return _of_png(self.stored, where)
        if isinstance(self.stored, Mapping):
            return _of_runs(self.stored, plane, where)
        if isinstance(self.stored, np.ndarray) and self.stored.ndim == 2:
            return self.stored
        return _of_polygons(self.stored, plane, where)


@dataclass(frozen=True)
class Regions(Sequence[Region]):
    """The objects of an image.

    Args:
        objects: in the source's order, or that in which they were drawn.
        plane: (height, width) of the image.
        where: names the example in errors.
    """

    objects: tuple[Region, ...]
    plane: Plane
    where: str

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: Any) -> Any:
        found = self.objects[index]
        return Regions(found, self.plane, self.where) if isinstance(index, slice) else found

    def masks(self) -> UInt8[np.ndarray, "n H W"]:
        """1 where each object is, else 0; see `Region.mask` for what is raised."""
        return np.stack([region.mask(self.plane, self.where) for region in self.objects])

    @property
    def classes(self) -> list[int]:
        """Number of each object's class."""
        return [region.kind for region in self.objects]


def regions(raw: Any, where: str) -> list[Region]:
    """The objects in what a source gives for an image, none of them drawn yet.

    Args:
        raw: a list with for each object what `Region` takes or {"segmentation": that, "class": number}, also as JSON;
            an array [N, H, W] of masks; an array [H, W] or a grey or palette PNG with the number of an object for each
            pixel, 0 for none; or a PNG with an alpha channel, which is one object.

    Raises:
        UnreadableImage: where that cannot be read, or there is no object.
        UserError: where it is something else.
    """
    found = _listed(raw, where)
    if not found:
        raise UnreadableImage(f"{where} has no objects", "Leave images without objects out of the source")
    return found


def _listed(raw: Any, where: str) -> list[Region]:
    if isinstance(raw, bytes) and raw.startswith(_PNG):
        if _has_alpha(raw, where):
            return [Region(raw)]
        raw = decode_labels(raw, where)
    if isinstance(raw, np.ndarray):
        return _of_array(raw, where)
    if isinstance(raw, (str, bytes)):
        try:
            raw = json.loads(raw) if raw.strip() else []
        except (ValueError, RecursionError) as error:
            raise UnreadableImage(f"{where} is neither a PNG nor JSON", _HOW) from error
    if not isinstance(raw, Sequence):
        raise UserError(f"{where} is {shortened(repr(raw), 60)}", _HOW)
    return [_one(entry, where) for entry in raw]


def _of_array(values: np.ndarray, where: str) -> list[Region]:
    if values.dtype.kind not in "bui" or values.ndim not in (2, 3):
        raise UserError(f"{where} is {values.dtype} {list(values.shape)}", _HOW)
    if values.ndim == 3:
        return [Region(mask) for mask in values]
    return [Region(values, number=int(number)) for number in np.unique(values) if number]


def _one(entry: Any, where: str) -> Region:
    if isinstance(entry, Region):
        return entry
    kind = 0
    if isinstance(entry, Mapping) and "segmentation" in entry:
        entry, kind = entry["segmentation"], entry.get("class", 0)
        if not isinstance(kind, int) or isinstance(kind, bool) or kind < 0:
            raise UserError(f"{where} has an object of the class {shortened(repr(kind), 40)}", "Number them from 0")
    if isinstance(entry, np.ndarray) and (entry.ndim != 2 or entry.dtype.kind not in "bui"):
        raise UserError(f"{where} has a mask that is {entry.dtype} {list(entry.shape)}", _HOW)
    if isinstance(entry, str) or not isinstance(entry, (bytes, Mapping, np.ndarray, Sequence)):
        raise UserError(f"{where} has an object that is {shortened(repr(entry), 60)}", _HOW)
    return Region(entry, kind)


def _of_png(data: bytes, where: str) -> Shaped[np.ndarray, "H W"]:
    return decode_rgba(data, where)[..., 3] > 127 if _has_alpha(data, where) else decode_labels(data, where)


def _has_alpha(data: bytes, where: str) -> bool:
    try:
        read_header(data)
    except ValueError as error:
        raise UnreadableImage(f"{where} {error}", "Replace it") from error
    return data[25] in (4, 6)  # PNG's types of colour with alpha


def _of_runs(stored: Mapping[str, Any], plane: Plane, where: str) -> UInt8[np.ndarray, "H W"]:
    size, counts = stored.get("size"), stored.get("counts")
    if not isinstance(size, Sequence) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise _undecodable(where, f"run lengths of the size {shortened(repr(size), 40)}")
    if tuple(size) != tuple(plane):  # before memory is set aside for it
        raise UserError(
            f"{where} has run lengths of {size[1]}x{size[0]} on an image of {plane[1]}x{plane[0]}",
            "Make them as large as their image",
        )
    coco = _pycocotools()
    try:
        if isinstance(counts, (str, bytes)):
            packed = {"size": list(size), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
        else:
            if not all(type(count) is int and 0 <= count <= math.prod(size) for count in counts):
                raise ValueError("counts below 0, or beyond the image")
            if sum(counts) != math.prod(size):
                raise ValueError(f"{sum(counts)} pixels")
            packed = coco.frPyObjects({"size": list(size), "counts": list(counts)}, *size)
        return coco.decode(packed)
    except (ValueError, TypeError) as error:
        raise _undecodable(where, f"run lengths that do not decode ({error})") from error


def _of_polygons(stored: Sequence[Any], plane: Plane, where: str) -> UInt8[np.ndarray, "H W"]:
    parts = []
    for part in stored:
        try:
            xy = np.asarray(part, np.float64)
        except (TypeError, ValueError, OverflowError) as error:  # the last for integers beyond floats
            raise _undecodable(where, "a polygon that is no list of numbers") from error
        if xy.ndim != 1 or len(xy) % 2 or len(xy) < 6:
            raise _undecodable(where, f"a polygon of {list(xy.shape)} numbers")
        # An edge takes memory by its length; what lies outside of the image is cut off by pycocotools.
        if not (np.abs(xy) <= 4 * max(plane)).all():
            raise _undecodable(where, "a polygon that reaches far beyond its image")
        parts.append(xy.tolist())
    if not parts:
        raise _undecodable(where, "an object without polygons")
    coco = _pycocotools()
    return coco.decode(coco.merge(coco.frPyObjects(parts, *plane)))


def _undecodable(where: str, what: str) -> UnreadableImage:
    return UnreadableImage(f"{where} has {what}", "Replace or remove it")


def _pycocotools() -> Any:
    if importlib.util.find_spec("pycocotools") is None:
        raise UserError(
            "Masks as COCO's polygons and run lengths need pycocotools, which is not installed",
            "pip install 'vit_jax[dense]'",
        )
    from pycocotools import mask

    return mask
