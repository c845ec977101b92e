"""What an image is in a higher resolution: made by the transform 'low_resolution', which makes the image of it."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from jaxtyping import Float32, UInt8

from vit_jax.data.field import Context, Field, Spec
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.ranges import Range


@dataclass(frozen=True)
class HighResolution(Field):
    """uint8 [scale * h, scale * w, 3] beside an image of [h, w]; normalised on the device as that is.

    Args:
        preprocess: that of the image.
        scale: so many pixels along a side for each of the image's.
    """

    preprocess: Preprocess
    scale: int
    made: ClassVar[bool] = True

    def spec(self, name: str) -> dict[str, Spec]:
        height, width = self.preprocess.image_size
        return {name: Spec((self.scale * height, self.scale * width, 3), "uint8", 256)}

    def on_device(self, value: UInt8[Any, "*b h w 3"]) -> Float32[Any, "*b h w 3"]:
        return self.preprocess.normalize(value)

    def to_json(self) -> dict[str, Any]:
        return {"name": "high_resolution", "scale": self.scale}


def build(*, data: Context, scale: Annotated[int, Range(2)]) -> HighResolution:
    """The field for an image that is smaller by `scale`."""
    if data.preprocess is None:
        raise UserError("A field of high resolution has no size", "Set config.data.image_size to [height, width]")
    return HighResolution(data.preprocess, scale)
