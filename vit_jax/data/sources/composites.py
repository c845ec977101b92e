"""Cut-outs on photos or made-up textures: scenes without end whose every pixel is known."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from vit_jax.data import geometry
from vit_jax.data.decode import decode, decode_rgba, read_file
from vit_jax.data.files import from_here
from vit_jax.data.image_tree import is_image
from vit_jax.data.manifest_rows import paths_of, read_rows, refuse, splits_of
from vit_jax.data.scene import Part, Scene, texture
from vit_jax.data.seeds import derived_seed
from vit_jax.data.sources.shapes import object_counts
from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.ranges import Count, Natural, Share

_PLATE = "plate"
_SHRUNK = (1.0, 0.75, 0.55)
_LARGEST_PLATE = 0.8  # of the image's smaller side: beside a larger one there is no room for another object


class CompositeSource:
    """Scenes, each a function of seed and index alone; see `build`.

    Args:
        cutouts: path and number of the class of each.
        photos: paths; none for textures.
    """

    field_names = frozenset({"image", "segmentation", "masks", "boxes"})

    def __init__(
        self,
        cutouts: Sequence[tuple[str, int]],
        photos: Sequence[str],
        label_names: tuple[str, ...],
        length: int,
        image_size: tuple[int, int],
        objects: tuple[int, int],
        scale: tuple[float, float],
        plates: float,
        seed: int,
    ):
        self._cutouts, self._photo_paths, self.label_names = list(cutouts), list(photos), label_names
        self._length, self._size, self._objects, self._scale = length, image_size, objects, scale
        self._plates, self._seed = plates, seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self._seed, index))
        scene = Scene(self._background(rng), rng)
        for k in range(int(rng.integers(self._objects[0], self._objects[1] + 1))):
            side, own = min(self._size) * rng.uniform(*self._scale), int(rng.integers(2**32))
            # The same object again and smaller where there is no room, or few of many would be those on plates.
            for shrunk in _SHRUNK:
                picture, parts = self._object(side * shrunk, np.random.default_rng(own))
                if scene.put(picture, parts, must=k == 0):
                    break
        return scene.example()

    def _object(self, side: float, rng: np.random.Generator) -> tuple[UInt8[np.ndarray, "h w 4"], list[Part]]:
        """A cut-out whose longer side has so many pixels, some on a plate, and the parts of that."""
        picture, kind = self._cutout(side, rng)
        if rng.random() < self._plates:
            return self._on_plate(picture, kind, rng)
        return picture, [Part(picture[..., 3] > 127, kind)]

    @cached_property
    def _pictures(self) -> list[UInt8[np.ndarray, "h w 4"]]:
        """Every cut-out without what is empty around it. They are small, and decoding them took a sixth of the time of
        a scene."""
        found = []
        for path, _ in self._cutouts:
            picture = decode_rgba(read_file(path), path)
            solid = picture[..., 3] > 127
            rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
            if not len(rows):
                raise UserError(f"{path} has nothing in it that is opaque", "Remove it")
            found.append(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy())
        return found

    @cached_property
    def _photos(self) -> list[geometry.Image]:
        return [decode(path) for path in self._photo_paths]

    def _background(self, rng: np.random.Generator) -> geometry.Image:
        if not self._photo_paths:
            return texture(self._size, rng)
        photo = self._photos[int(rng.integers(len(self._photos)))]
        most = min(of / to for of, to in zip(photo.shape, self._size, strict=False))
        # As large as the scene at least, where the photo is: enlarged it would be blurred.
        share = min(max(rng.uniform(0.4, 1.0) * most, 1.0), most)
        height, width = (max(1, round(side * share)) for side in self._size)
        top, left = (int(rng.integers(of - to + 1)) for of, to in zip(photo.shape, (height, width), strict=False))
        view = geometry.resize(photo[top : top + height, left : left + width], self._size)
        return geometry.flip(view) if rng.random() < 0.5 else view

    def _cutout(self, side: float, rng: np.random.Generator) -> tuple[UInt8[np.ndarray, "h w 4"], int]:
        """A picture whose longer side has so many pixels, and its class."""
        k = int(rng.integers(len(self._cutouts)))
        picture = self._pictures[k]
        size = tuple(max(2, round(of * side / max(picture.shape[:2]))) for of in picture.shape[:2])
        picture = _resized(picture, size)
        return (picture[:, ::-1] if rng.random() < 0.5 else picture), self._cutouts[k][1]

    def _on_plate(
        self, picture: UInt8[np.ndarray, "h w 4"], kind: int, rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "h w 4"], list[Part]]:
        """The object on an ellipse of one colour that is about 1.65 times as large, and the object smaller where there
        is no room for that."""
        height, width = picture.shape[:2]
        wider = rng.uniform(1.5, 1.8)
        most = round(_LARGEST_PLATE * min(self._size))
        plate = tuple(min(most, max(6, round(side * wider))) for side in (height, width))
        if plate[0] < height * 1.4 or plate[1] < width * 1.4:
            picture = _resized(picture, tuple(max(2, round(side / 1.4)) for side in plate))
        # Drawn finely and averaged, so that its edge is soft.
        fine = np.zeros((4 * plate[0], 4 * plate[1]), np.uint8)
        cv2.ellipse(fine, (2 * plate[1], 2 * plate[0]), (2 * plate[1] - 1, 2 * plate[0] - 1), 0, 0, 360, 255, -1)
        alpha = cv2.resize(fine, plate[::-1], interpolation=cv2.INTER_AREA)
        canvas = np.dstack([np.broadcast_to(rng.integers(0, 256, 3, np.uint8), (*plate, 3)), alpha])
        top, left = (plate[axis] - picture.shape[axis] for axis in (0, 1))
        over = (slice(top // 2, top // 2 + picture.shape[0]), slice(left // 2, left // 2 + picture.shape[1]))
        share = picture[..., 3:].astype(np.float32) / 255
        canvas[over][..., :3] = np.round(canvas[over][..., :3] * (1 - share) + picture[..., :3] * share)
        canvas[over][..., 3] = np.maximum(canvas[over][..., 3], picture[..., 3])
        mask = np.zeros(plate, bool)
        mask[over] = picture[..., 3] > 127
        return canvas, [Part(canvas[..., 3] > 127, self.label_names.index(_PLATE)), Part(mask, kind)]


def build(
    root: str,
    split: Literal["train", "test"],
    length: Count,
    image_size: int | Sequence[int] = 64,
    classes: Sequence[str] | None = None,
    objects: Sequence[int] = (1, 3),
    scale: Sequence[float] = (0.3, 0.6),
    plates: Share = 0.5,
    backgrounds: Literal["photos", "textures"] = "photos",
    seed: Natural = 0,
) -> CompositeSource:
    """Scenes of the cut-outs that `vit_jax prepare cutouts` writes: image, segmentation, masks and boxes, with one
    numbering of classes in all, 0 for the background; `label_names` has their names.

    An object that lies on a plate has two masks and two boxes: its own, and that of plate and object together, of the
    class "plate". What one object hides of another is not in the other's mask.

    Args:
        root: the folder with cutouts.jsonl.
        split: whose cut-outs and photos: "train" or "test".
        length: scenes.
        image_size: (height, width), or one number for squares.
        classes: categories of the cut-outs to take, by default all.
        objects: least and most in a scene; those that cover too much of others, even shrunk to 0.55, are left out.
        scale: least and largest size, as a share of the image's smaller side.
        plates: share of the objects that lie on a plate.
        backgrounds: "photos", or "textures" that are made up.
        seed: of the scenes: with another they are others of the same cut-outs and photos.

    Raises:
        UserError: for a folder without cut-outs or photos of the split, or a class that none has.
    """
    manifest = os.path.join(root, "cutouts.jsonl")
    rows = read_rows(manifest, ("path", "category", "split"))
    for key in ("path", "category"):
        refuse(manifest, rows, lambda row, key=key: not isinstance(row.get(key), str), f"no {key!r}")
    of_split = [row for row, of in zip(rows, splits_of(manifest, rows, split, "split"), strict=True) if of == split]
    known = sorted({row["category"] for _, row in rows})
    chosen = known if classes is None else list(classes)
    for name in chosen:
        if name not in known:
            raise UserError(f"{from_here(manifest)} has no category {name!r}", nearest(str(name), known))
    if len(set(chosen)) != len(chosen) or not chosen:
        raise UserError(f"classes={chosen} is not a choice of categories", "Name different ones")
    names = ("background", *chosen, *([_PLATE] if plates else []))
    paths = paths_of(manifest, of_split, "path", root, allow_outside=False)
    cutouts = [
        (path, names.index(row["category"]))
        for path, (_, row) in zip(paths, of_split, strict=True)
        if row["category"] in chosen
    ]
    if not cutouts:
        raise UserError(f"{from_here(manifest)} has no {' or '.join(chosen)} of the split {split!r}", "Choose others")
    size, of_scale = geometry.size_pair(image_size), geometry.bounds("scale", scale, 1)
    photos = _photos(os.path.join(root, split, "photos")) if backgrounds == "photos" else []
    return CompositeSource(
        cutouts, photos, names, length, size, object_counts(objects), of_scale, plates,
        derived_seed(seed, 19, ("train", "test").index(split)),
    )  # fmt: skip


def _photos(folder: str) -> list[str]:
    found = []
    if os.path.isdir(folder):
        with os.scandir(folder) as entries:
            found = sorted(entry.path for entry in entries if is_image(entry))
    if not found:
        raise UserError(
            f"{from_here(folder)} holds no photos", "Prepare some with 'vit_jax prepare cutouts', or use 'textures'"
        )
    return found


def _resized(picture: UInt8[np.ndarray, "h w 4"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 4"]:
    """Of other (height, width): colours of what is transparent do not come in at the edge."""
    alpha = picture[..., 3:].astype(np.float32)
    shrinks = size[0] < picture.shape[0] or size[1] < picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    both = cv2.resize(np.dstack([picture[..., :3] * (alpha / 255), alpha]), size[::-1], interpolation=how)
    colors = both[..., :3] * (255 / np.maximum(both[..., 3:], 1))
    return np.clip(np.round(np.dstack([colors, both[..., 3]])), 0, 255).astype(np.uint8)
