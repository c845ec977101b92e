"""What an image is to follow, as a picture of its own: made by the transform 'edges' of the image, or from files."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vit_jax.data.decode import decode
from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.geometry import Image
from vit_jax.data.pixels import as_rgb
from vit_jax.data.placement import Placement
from vit_jax.errors import UserError


@dataclass(frozen=True)
class Control(Field):
    """uint8 [h, w, 3] as the image in the batch, 0..1 on the device; see `build`."""

    size: tuple[int, int]
    made: bool

    @property
    def in_plane(self) -> bool:
        """What is made of the view is not moved any more."""
        return not self.made

    def spec(self, name: str) -> dict[str, Spec]:
        return {name: Spec((*self.size, 3), "uint8", 256)}

    def read(self, raw: Any, where: str, plane: Plane | None) -> UInt8[np.ndarray, "H W 3"]:
        pixels = decode(raw, where) if isinstance(raw, (bytes, os.PathLike)) else as_rgb(raw)
        if plane is not None and pixels.shape[:2] != plane:
            raise UserError(
                f"{where} is {pixels.shape[1]}x{pixels.shape[0]} on an image of {plane[1]}x{plane[0]}",
                "Make it as large as its image",
            )
        return pixels

    def move(self, value: UInt8[np.ndarray, "H W 3"], placement: Placement) -> UInt8[np.ndarray, "h w 3"]:
        return placement.image(value)

    def evaluated(self, value: UInt8[np.ndarray, "H W 3"], placement: Placement) -> UInt8[np.ndarray, "h w 3"]:
        """Of the nearest pixels: the box of an evaluation's view need not be whole ones."""
        return np.moveaxis(placement.dense(np.moveaxis(value, -1, 0), 0), 0, -1)

    def on_device(self, value: UInt8[Any, "*b h w 3"]) -> Float32[Any, "*b h w 3"]:
        return value.astype(np.float32) / np.float32(255)

    def draw(self, image: Image, name: str, row: Any, times: int) -> Image:
        """Half of both."""
        over = np.repeat(np.repeat(row[name], times, axis=0), times, axis=1)
        return (image // 2 + over[: image.shape[0], : image.shape[1]] // 2).astype(np.uint8)

    def to_json(self) -> dict[str, Any]:
        return {"name": "control", "made": self.made}


def build(*, data: Context, made: bool = True) -> Control:
    """A picture beside an image.

    Args:
        made: whether the transform makes it ('edges'); False to read it from the source, such as depth or poses as
            pictures.
    """
    if data.preprocess is None:
        raise UserError("A control has no size", "Set config.data.image_size to [height, width]")
    return Control(data.preprocess.image_size, made)
