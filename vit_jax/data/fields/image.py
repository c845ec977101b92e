"""A picture: encoded bytes or an array to uint8 [H, W, 3] on the host, and normalised floats on the device."""

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, UInt8

from vit_jax.data.decode import EncodedImage, decode
from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.pixels import as_rgb
from vit_jax.data.placement import Placement
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.naming import construct


@dataclass(frozen=True)
class Image(Field):
    """One image.

    Args:
        preprocess: its form in evaluation; None where only training's transform reads it.
        own: whether that is the field's own, not the config's `image_size` and `preprocess`.
    """

    preprocess: Preprocess | None = None
    own: bool = False
    in_plane: ClassVar[bool] = True

    def spec(self, name: str) -> dict[str, Spec]:
        return {name: Spec((*self.preprocess.image_size, 3), "uint8", 256)}

    def read(self, raw: Any, where: str, plane: Plane | None) -> UInt8[np.ndarray, "H W 3"]:
        return self.open(raw, where, plane)[:, :]

    def given(self, image: Any) -> UInt8[np.ndarray, "H W 3"]:
        """An image that a person hands over: a path, encoded bytes, or what `vit_jax.data.pixels.as_rgb` takes."""
        return decode(image) if isinstance(image, (bytes, str, os.PathLike)) else as_rgb(image)

    def open(self, raw: Any, where: str, plane: Plane | None) -> UInt8[np.ndarray, "H W 3"] | EncodedImage:
        image = raw if isinstance(raw, np.ndarray) else EncodedImage(raw, where)
        if image is raw and (raw.dtype != np.uint8 or raw.ndim != 3 or raw.shape[-1] != 3):
            raise UserError(
                f"{where} is {raw.dtype} {list(raw.shape)}, and an image is uint8 [H, W, 3]",
                "Set config.data.fields.image to dict(name='bands', channels=C, dtype=...), or convert it",
            )
        if plane is not None and image.shape[:2] != plane:
            raise UserError(
                f"{where} is {image.shape[1]}x{image.shape[0]} on an image of {plane[1]}x{plane[0]}",
                "Give both the same size, so that a crop shows the same part of them",
            )
        return image

    def move(self, value: UInt8[np.ndarray, "H W 3"], placement: Placement) -> UInt8[np.ndarray, "h w 3"]:
        return placement.image(value)

    def evaluated(self, value: UInt8[np.ndarray, "H W 3"], placement: Placement) -> UInt8[np.ndarray, "h w 3"]:
        return self.preprocess.to_uint8(value)

    def on_device(self, value: UInt8[Any, "*b h w 3"]) -> Float32[Any, "*b h w 3"]:
        return self.preprocess.normalize(value)

    def to_json(self) -> dict[str, Any]:
        return {"name": "image", **(self.preprocess.to_json() if self.own else {})}


def build(*, data: Context, **own: Any) -> Image:
    """An image; without arguments prepared as the config's image_size and preprocess say, with them as they do.

    Args:
        own: those of `vit_jax.data.preprocess.Preprocess`.
    """
    if not own:
        if data.preprocess is None:
            raise UserError("An image field has no size", "Set config.data.image_size to [height, width] in pixels")
        return Image(data.preprocess)
    given = {} if "image_size" in own or data.preprocess is None else {"image_size": data.preprocess.image_size}
    return Image(construct(Preprocess, own, "config.data.fields", **given), own=True)
