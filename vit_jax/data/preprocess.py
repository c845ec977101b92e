"""The one definition of how an image becomes a model's input outside training's augmentation."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from vit_jax.data import geometry
from vit_jax.data.decode import decode
from vit_jax.data.pixels import as_rgb
from vit_jax.data.placement import Placement
from vit_jax.data.resample import FILTERS, resample
from vit_jax.errors import UserError
from vit_jax.spelling import nearest, unknown_key

_RESIZES = ("squash", "short_side", "cover", "pad")
_CROPS = ("round", "floor")
_ANCHORS = ("centre", "corner")
_INTERPOLATIONS = ("area", *FILTERS)


@dataclass(frozen=True)
class Preprocess:
    """Decode, resize, normalise. It is stored with every checkpoint and used by every command.

    Attributes:
        image_size: (height, width) of the result in pixels.
        resize: what happens to the aspect ratio before the centre is cropped. "squash" stretches the image to
            `resize_to`. The others keep the ratio: "short_side" makes the short side `resize_to` pixels, "cover" makes
            the image as small as covers `resize_to`, and "pad" as large as fits in it, with `mean` around it.
        resize_to: pixels before the crop; with "short_side" one number (256 for a 224 crop is the usual choice), else
            (height, width). By default `image_size`, or what covers it.
        interpolation: "area" averages over areas when shrinking and is bilinear when enlarging. The others are
            Pillow's, with the sizes rounded as torchvision does: those of published weights.
        mean: per channel, in pixel values 0..255.
        std: the same for the standard deviation. The defaults map 0..255 to -1..1.
        crop: where an odd number of pixels is left over, the corner is rounded half to even, as torchvision and timm
            do, or down ("floor"), as transformers does, and "area" always.
        trim: rows below and columns at the right of `image_size` that are made and left out: where patches do not
            divide what a library makes, its patch embedding does not see these.
        anchor: where "pad" puts the image: in the "centre" of what is around it, as timm does, or in the "corner" at
            the top left, with all padding at the right and below and sizes rounded half up: as Segment Anything
            (arXiv:2304.02643) does in its `ResizeLongestSide`.

    Raises:
        UserError: for values that do not make sense, here or in `from_json`.
    """

    image_size: tuple[int, int]
    resize: str = "squash"
    resize_to: int | tuple[int, int] | None = None
    interpolation: str = "area"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    crop: str = "round"
    trim: tuple[int, int] = (0, 0)
    anchor: str = "centre"

    def __post_init__(self):
        object.__setattr__(self, "image_size", geometry.size_pair(self.image_size))
        of = {"resize": _RESIZES, "interpolation": _INTERPOLATIONS, "crop": _CROPS, "anchor": _ANCHORS}
        for name, known in of.items():
            if (value := getattr(self, name)) not in known:
                raise UserError(f"There is no {name} named {value!r}", nearest(str(value), known))
        if self.anchor == "corner" and self.resize != "pad":
            raise UserError(f"anchor='corner' goes with resize='pad', not {self.resize!r}", "Leave it out")
        trim = tuple(self.trim) if isinstance(self.trim, Sequence) else ()
        if len(trim) != 2 or not all(isinstance(side, int) and 0 <= side < 2**15 for side in trim):
            raise UserError(f"trim={self.trim!r} is not a number of rows and columns", "Give two, such as (0, 0)")
        object.__setattr__(self, "trim", trim)
        self._check_resize_to()
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3:
                raise UserError(f"{name}={values} has {len(values)} values", "Give one for each of R, G and B")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise UserError(f"std={self.std} is not positive", "Give pixel units, such as 127.5")

    def _check_resize_to(self) -> None:
        if self.resize_to is None:
            return
        if self.resize == "short_side":
            if not isinstance(self.resize_to, int):
                raise UserError(f"resize_to={self.resize_to!r} is not a number of pixels", "Give the short side's")
            fits = self.resize_to >= max(self._made)
        else:
            if not isinstance(self.resize_to, Sequence):
                raise UserError(
                    f"resize_to={self.resize_to!r} goes with resize='short_side' only", "Leave it out or give a pair"
                )
            object.__setattr__(self, "resize_to", geometry.size_pair(self.resize_to))
            if self.anchor == "corner" and any(to > of for to, of in zip(self.resize_to, self._made, strict=True)):
                raise UserError(
                    f"resize_to={self.resize_to} is larger than image_size={self._made}, and anchor='corner' crops"
                    " nothing",
                    "Make it at most as large",
                )
            fits = self.resize == "pad" or all(to >= of for to, of in zip(self.resize_to, self._made, strict=True))
        if not fits:
            raise UserError(
                f"resize_to={self.resize_to} is smaller than image_size={self._made}", "Make it at least as large"
            )

    @property
    def _made(self) -> tuple[int, int]:
        """(height, width) before the trim."""
        return self.image_size[0] + self.trim[0], self.image_size[1] + self.trim[1]

    def to_uint8(self, image: Any) -> UInt8[np.ndarray, "H W 3"]:
        """Decodes where needed, and resizes to `image_size`.

        Args:
            image: a path, encoded bytes, or what `vit_jax.data.pixels.as_rgb` takes.

        Raises:
            UserError: when the image cannot be read, or is an array of another type or rank.
        """
        return self.fitted(decode(image) if isinstance(image, (bytes, str, os.PathLike)) else as_rgb(image))

    def fitted(self, image: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "H W *c"]:
        """The array resized to `image_size`; other than uint8 RGB only by "area" and without "pad"."""
        made = self._made
        resized = self._resize(image)
        if self.resize == "pad":
            resized = self._pad(resized, made)
        if self.interpolation == "area":
            cropped = geometry.centre_crop(resized, made)
        else:
            place = round if self.crop == "round" else int
            top, left = (place((resized.shape[axis] - made[axis]) / 2) for axis in (0, 1))
            cropped = resized[top : top + made[0], left : left + made[1]]
        return np.ascontiguousarray(cropped[: self.image_size[0], : self.image_size[1]])

    def placement(self, shape: tuple[int, int]) -> Placement:
        """Where `to_uint8` puts an image of (height, width): for labels, points and boxes, which follow it."""
        made, size = self._made, self._size(shape)
        area = self.interpolation == "area"
        place = round if self.crop == "round" and not area else math.floor
        box = []
        for axis in (0, 1):
            missing = max(made[axis] - size[axis], 0) if self.resize == "pad" else 0
            left_over = (size[axis] + missing - made[axis]) / 2
            start = place(left_over) - self._before(missing)
            scale = shape[axis] / size[axis]
            box.append((start * scale, self.image_size[axis] * scale))
        (top, height), (left, width) = box
        return Placement((top, left, height, width), self.image_size)

    def _resize(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        size = self._size(image.shape[:2])
        return (
            geometry.resize(image, size) if self.interpolation == "area" else resample(image, size, self.interpolation)
        )

    def _size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) to which an image is resized, before anything is cropped or padded."""
        made, area = self._made, self.interpolation == "area"
        if self.resize == "squash":
            return self.resize_to or made
        if self.resize == "short_side" and self.resize_to and area:
            return geometry.short_side_size(shape, self.resize_to)
        if self.resize == "short_side" and not area:
            short, target = min(shape), self.resize_to or max(made)
            return tuple(int(target * side / short) for side in shape)
        ratios = [side / to for side, to in zip(shape, self.resize_to or made, strict=True)]
        if self.anchor == "corner":
            scale = min(to / side for side, to in zip(shape, self.resize_to or made, strict=True))
            return tuple(max(math.floor(side * scale + 0.5), 1) for side in shape)
        # The same roundings as timm's.
        ratio = max(ratios) if self.resize == "pad" else min(ratios)
        return tuple(max(round(side / ratio), 1) for side in shape)

    def _pad(self, image: UInt8[np.ndarray, "h w 3"], made: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """The image at its place in at least `made` pixels of the mean colour."""
        missing = [max(made[axis] - image.shape[axis], 0) for axis in (0, 1)]
        height, width = (image.shape[axis] + missing[axis] for axis in (0, 1))
        canvas = np.empty((height, width, 3), np.uint8)
        canvas[:] = self.filler
        top, left = map(self._before, missing)
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
        return canvas

    @cached_property
    def filler(self) -> UInt8[np.ndarray, "3"]:
        """The mean as bytes."""
        return np.uint8(np.clip([round(value) for value in self.mean], 0, 255))

    def _shown(self, pixels: UInt8[Any, "*b h w 3"]) -> Bool[Any, "*b h w 1"]:
        """Where an image is not what `_pad` put below it or at its right, whose bytes are the mean only nearly: a model
        feels a third of a level in half of its input."""
        filled = (pixels == self.filler).all(-1)
        rows, columns = (_until_last(~filled.all(axis)) for axis in (-1, -2))
        return (rows[..., :, None] & columns[..., None, :])[..., None]

    def _before(self, missing: int) -> int:
        """How many of the missing rows or columns are above the image, or left of it."""
        return 0 if self.anchor == "corner" else missing // 2

    @cached_property
    def _mean_and_inverse_std(self) -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
        return np.float32(self.mean), np.float32(1) / np.float32(self.std)

    def normalize(self, pixels: UInt8[Any, "*b h w 3"]) -> Float32[Any, "*b h w 3"]:
        """Pixel values to float32 input, the same bits from NumPy and from JAX, jitted or not.

        It subtracts and then multiplies, which no compiler may fuse into a differently rounded operation.
        """
        mean, inverse_std = self._mean_and_inverse_std
        normalized = (pixels.astype(np.float32) - mean) * inverse_std
        return normalized * self._shown(pixels) if self.anchor == "corner" else normalized

    def denormalize(self, images: Float32[Any, "*b h w 3"]) -> Float32[Any, "*b h w 3"]:
        """Pixel values from 0 to 255 of input, not rounded; from NumPy and from JAX."""
        return (images * np.float32(self.std) + np.float32(self.mean)).clip(0, 255)

    def to_pixels(self, images: Float32[Any, "*b h w 3"]) -> UInt8[Any, "*b h w 3"]:
        """The inverse of `normalize`, exactly, but for what the corner's padding was; other input is rounded to the
        nearest pixel values. From NumPy and from JAX."""
        return self.denormalize(images).round().astype(np.uint8)

    def __call__(self, image: Any) -> Float32[np.ndarray, "H W 3"]:
        """One image, ready for the model."""
        return self.normalize(self.to_uint8(image))

    def resized(self, image_size: int | tuple[int, int]) -> Self:
        """The same for another `image_size`, with `resize_to` in the same proportion to it and nothing trimmed."""
        size, resize_to = geometry.size_pair(image_size), self.resize_to
        if isinstance(resize_to, int):
            resize_to = max(*size, round(resize_to * min(size) / min(self._made)))
        elif resize_to is not None:
            scaled = (round(to * new / old) for to, new, old in zip(resize_to, size, self._made, strict=True))
            resize_to = tuple(scaled if self.resize == "pad" else map(max, scaled, size))
        return replace(self, image_size=size, resize_to=resize_to, trim=(0, 0))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata; what came after format 1 is left out where it is the default."""
        later = {field.name: field.default for field in fields(self) if field.name in ("crop", "trim", "anchor")}
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: value for name, value in plain.items() if name not in later or value != later[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise unknown_key("preprocess", key, known)
        if "image_size" not in values:
            raise UserError("The preprocessing has no image_size", "Add it")
        return cls(**values)


def _until_last(there: Bool[Any, "*b n"]) -> Bool[Any, "*b n"]:
    """Up to the last one that is there; from NumPy and from JAX alike."""
    return there[..., ::-1].cumsum(-1)[..., ::-1] > 0
