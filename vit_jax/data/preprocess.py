"""The one definition of how an image becomes a model's input outside training's augmentation."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, UInt8

from vit_jax.data import geometry
from vit_jax.data.decode import decode
from vit_jax.data.resample import FILTERS, resample
from vit_jax.errors import UserError
from vit_jax.spelling import nearest, unknown_key

_RESIZES = ("squash", "short_side")
_INTERPOLATIONS = ("area", *FILTERS)


@dataclass(frozen=True)
class Preprocess:
    """Decode, resize, normalise. It is stored with every checkpoint and used by every command.

    Attributes:
        image_size: (height, width) of the result in pixels.
        resize: "squash" stretches the whole image to `image_size`; "short_side" keeps the aspect ratio and crops the
            centre.
        resize_to: with "short_side", the pixels of the short side before the crop (256 for a 224 crop is the usual
            choice). By default the image is made as small as covers `image_size`.
        interpolation: "area" averages over areas when shrinking and is bilinear when enlarging. "bilinear" and
            "bicubic" are Pillow's, with the sizes and the crop rounded as torchvision does: those of published weights.
        mean: per channel, in pixel values 0..255.
        std: likewise. The defaults map 0..255 to -1..1.

    Raises:
        UserError: for values that do not make sense, here or in `from_json`.
    """

    image_size: tuple[int, int]
    resize: str = "squash"
    resize_to: int | None = None
    interpolation: str = "area"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def __post_init__(self):
        object.__setattr__(self, "image_size", geometry.size_pair(self.image_size))
        if self.resize not in _RESIZES:
            raise UserError(f"There is no resize named {self.resize!r}", nearest(self.resize, _RESIZES))
        if self.interpolation not in _INTERPOLATIONS:
            raise UserError(
                f"There is no interpolation named {self.interpolation!r}", nearest(self.interpolation, _INTERPOLATIONS)
            )
        if self.resize_to is not None and self.resize != "short_side":
            raise UserError("resize_to goes with resize='short_side' only", "Leave it out")
        if self.resize_to is not None and self.resize_to < max(self.image_size):
            raise UserError(
                f"resize_to={self.resize_to} is smaller than image_size={self.image_size}", "Make it at least as large"
            )
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3:
                raise UserError(f"{name}={values} has {len(values)} values", "Give one for each of R, G and B")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise UserError(f"std={self.std} is not positive", "Give pixel units, such as 127.5")

    def to_uint8(self, image: bytes | str | os.PathLike | UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Decodes where needed, and resizes to `image_size`.

        Raises:
            UserError: when the image cannot be read, or is an array of another type or rank.
        """
        if not isinstance(image, np.ndarray):
            image = decode(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise UserError(
                f"An image must be uint8 [H, W, 3], this is {image.dtype} {list(image.shape)}", "Convert it"
            )
        if self.interpolation != "area":
            return self._as_torchvision(image)
        if self.resize == "squash":
            return geometry.resize(image, self.image_size)
        if self.resize_to is not None:
            image = geometry.resize_short_side(image, self.resize_to)
        else:
            cover = max(self.image_size[0] / image.shape[0], self.image_size[1] / image.shape[1])
            height, width = (round(side * cover) for side in image.shape[:2])
            image = geometry.resize(image, (height, width))
        return np.ascontiguousarray(geometry.centre_crop(image, self.image_size))

    def _as_torchvision(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """`Resize` and `CenterCrop` of torchvision on a Pillow image: the long side is truncated, the crop rounded."""
        height, width = self.image_size
        if self.resize == "squash":
            return resample(image, (height, width), self.interpolation)
        short = min(image.shape[:2])
        target = self.resize_to or max(height, width)
        resized = resample(image, tuple(int(target * side / short) for side in image.shape[:2]), self.interpolation)
        top, left = (round((resized.shape[axis] - self.image_size[axis]) / 2) for axis in (0, 1))
        return np.ascontiguousarray(resized[top : top + height, left : left + width])

    @cached_property
    def _mean_and_inverse_std(self) -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
        return np.float32(self.mean), np.float32(1) / np.float32(self.std)

    def normalize(self, pixels: UInt8[Any, "*b h w 3"]) -> Float32[Any, "*b h w 3"]:
        """Pixel values to float32 input, the same bits from NumPy and from JAX, jitted or not.

        It subtracts and then multiplies, which no compiler may fuse into a differently rounded operation.
        """
        mean, inverse_std = self._mean_and_inverse_std
        return (pixels.astype(np.float32) - mean) * inverse_std

    def __call__(self, image: bytes | str | os.PathLike | UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "H W 3"]:
        """One image, ready for the model."""
        return self.normalize(self.to_uint8(image))

    def resized(self, image_size: int | tuple[int, int]) -> Self:
        """The same for another `image_size`, with `resize_to` in the same proportion to it."""
        size, resize_to = geometry.size_pair(image_size), self.resize_to
        if resize_to is not None:
            resize_to = max(*size, round(resize_to * min(size) / min(self.image_size)))
        return replace(self, image_size=size, resize_to=resize_to)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
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
