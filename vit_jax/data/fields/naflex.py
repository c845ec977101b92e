"""An image of any aspect ratio as a row of patches: NaFlex of SigLIP 2 (arXiv:2502.14786, section 2.4.2)."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, UInt8

from vit_jax.data import geometry
from vit_jax.data.field import Context, Spec
from vit_jax.data.fields.image import Image
from vit_jax.data.interpolation import interpolate
from vit_jax.data.placement import Placement
from vit_jax.errors import UserError
from vit_jax.ranges import Count


@dataclass(frozen=True)
class NaFlex(Image):
    """uint8 [max_patches, pixels of a patch], filled up with zeros; int32 NAME_shape [2] has the rows and columns.

    Args:
        patch_size: height and width of a patch in pixels.
        max_patches: the most patches of an image; it is made as large as they allow, nearly in its own aspect ratio.
    """

    patch_size: int = 16
    max_patches: int = 256
    in_plane: ClassVar[bool] = True

    def spec(self, name: str) -> dict[str, Spec]:
        pixels = 3 * self.patch_size**2
        return {name: Spec((self.max_patches, pixels), "uint8", 256), f"{name}_shape": Spec((2,), "int32", 2)}

    def move(self, value: UInt8[np.ndarray, "H W 3"], placement: Placement) -> UInt8[np.ndarray, "h w 3"]:
        """What a transform shows of the image, in the size of its own."""
        return dataclasses.replace(placement, size=self._size(*placement.box[2:])).image(value)

    def evaluated(self, value: UInt8[np.ndarray, "H W 3"], placement: Placement) -> UInt8[np.ndarray, "h w 3"]:
        return interpolate(value[:, :], self._size(*value.shape[:2]), self.preprocess.interpolation)

    def batched(self, name: str, value: UInt8[np.ndarray, "h w 3"]) -> dict[str, Any]:
        side = self.patch_size
        rows, columns = value.shape[0] // side, value.shape[1] // side
        patches = value.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(rows * columns, -1)
        found = np.zeros((self.max_patches, patches.shape[1]), np.uint8)
        found[: len(patches)] = patches
        return {name: found, f"{name}_shape": np.array([rows, columns], np.int32)}

    def on_device(self, value: UInt8[Any, "*b n pixels"]) -> Float32[Any, "*b n pixels"]:
        colours = value.reshape(*value.shape[:-1], -1, 3)
        return self.preprocess.normalize(colours).reshape(value.shape)

    def draw(self, image: geometry.Image, name: str, row: Any, times: int) -> geometry.Image:
        return image

    def to_json(self) -> dict[str, Any]:
        return {"name": "naflex", "patch_size": self.patch_size, "max_patches": self.max_patches}

    def _size(self, height: float, width: float) -> tuple[int, int]:
        """See `size_of_patches`, in pixels."""
        rows, columns = size_of_patches(height, width, self.patch_size, self.max_patches)
        return rows * self.patch_size, columns * self.patch_size


def size_of_patches(height: float, width: float, patch_size: int, most: int) -> tuple[int, int]:
    """Rows and columns of patches of an image of so many pixels: of the sizes that a scaling of both sides gives,
    rounded up to whole patches, the largest with at most so many. As `Siglip2ImageProcessor` of transformers finds it,
    by halving an interval of scales to 1e-5."""

    def at(scale: float) -> tuple[int, int]:
        return tuple(max(math.ceil(side * scale / patch_size), 1) for side in (height, width))

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(at(middle)) <= most else (low, middle)
    return at(low)


def build(*, data: Context, patch_size: Count = 16, max_patches: Count = 256) -> NaFlex:
    """An image of any aspect ratio; colours are normalised as the config's preprocessing says.

    Args:
        patch_size: see `NaFlex`, like `max_patches`.
    """
    if data.preprocess is None:
        raise UserError("An image field has no colours to normalise by", "Set config.data.image_size")
    return NaFlex(data.preprocess, patch_size=patch_size, max_patches=max_patches)
