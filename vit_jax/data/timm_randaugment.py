"""RandAugment as timm has it, with which DeiT and MAE were trained ("rand-m9-mstd0.5-inc1").

Its habits differ from TensorFlow's (`vit_jax.data.randaugment`) in almost everything that a recipe's numbers rest on:

- 15 operations, no cutout; half of those drawn are applied, each with a magnitude of its own;
- every operation grows with the magnitude ("increasing"): colours, contrast, brightness and sharpness move to either
  side of the image itself, and posterising and solarising are strongest at magnitude 10;
- geometry is bicubic, in Pillow's form of it for warps (Keys' cubic with a = -1), and what comes in from outside has
  the mean colour; translations are shares of the image;
- the colour operations are Pillow's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from vit_jax.data.geometry import Image
from vit_jax.data.randaugment import blend, equalize
from vit_jax.errors import UserError
from vit_jax.naming import nearest

OPERATIONS = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color", "contrast",
    "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
_SMOOTH = np.float32([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / np.float32(13)
_LEVELS = np.arange(256)


@dataclass(frozen=True)
class TimmRandAugment:
    """Draws `layers` of the operations with replacement and applies each with `probability`.

    Args:
        layers: N of the paper.
        magnitude: M of the paper, 0 to 10.
        magnitude_std: standard deviation with which each operation draws its magnitude around M, cut off at 0 and 10.
        probability: with which a drawn operation is applied at all.
        fill: red, green and blue of what comes in from outside; by default the mean of ImageNet.

    Raises:
        UserError: for values out of their range.
    """

    layers: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    probability: float = 0.5
    fill: tuple[int, int, int] = (124, 116, 104)

    def __post_init__(self):
        if isinstance(self.layers, bool) or not isinstance(self.layers, int) or self.layers < 1:
            raise UserError(f"layers={self.layers!r} of RandAugment is not a number of operations", "Give 1 or more")
        for name, most in (("magnitude", 10), ("magnitude_std", math.inf), ("probability", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
                what_to_do = "Give 0 or more" if most == math.inf else f"Give a number from 0 to {most}"
                raise UserError(f"{name}={value!r} of RandAugment is out of range", what_to_do)
        fill = tuple(self.fill) if isinstance(self.fill, Sequence) else ()
        if len(fill) != 3 or not all(isinstance(level, int) and 0 <= level <= 255 for level in fill):
            raise UserError(f"fill={self.fill!r} of RandAugment is not a colour", "Give three levels from 0 to 255")
        object.__setattr__(self, "fill", fill)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """One random augmentation of an image uint8 [H, W, 3]."""
        for _ in range(self.layers):
            # The same draws for every operation, so that a choice does not shift the draws after it.
            u_operation, u_sign, u_use = rng.random(3).tolist()
            magnitude = min(max(rng.normal(self.magnitude, self.magnitude_std), 0.0), 10.0)
            if u_use < self.probability:
                name = OPERATIONS[int(u_operation * len(OPERATIONS))]
                image = self.apply(name, image, magnitude, 1 if u_sign < 0.5 else -1)
        return image

    def apply(self, name: str, image: Image, magnitude: float, sign: int = 1) -> Image:
        """One operation; `sign` is 1 or -1, the direction of what has one."""
        share = magnitude / 10
        signed = sign * share
        height, width = image.shape[:2]
        factor = max(0.1, 1 + 0.9 * signed)
        match name:
            case "autocontrast":
                return autocontrast(image)
            case "equalize":
                return equalize(image)
            case "invert":
                return 255 - image
            case "rotate":
                return self._warp(image, rotation(30 * signed, height, width))
            case "posterize":
                return image & np.uint8(256 - 2 ** (8 - (4 - int(4 * share))) & 255)
            case "solarize":
                return cv2.LUT(image, np.where(256 - int(256 * share) > _LEVELS, _LEVELS, 255 - _LEVELS).astype("u1"))
            case "solarize_add":
                added = np.minimum(_LEVELS + min(128, int(110 * share)), 255)
                return cv2.LUT(image, np.where(_LEVELS < 128, added, _LEVELS).astype(np.uint8))
            case "color":
                return blend(luma(image)[..., None], image, factor)
            case "contrast":
                mean = int(luma(image).mean(dtype=np.float64) + 0.5)
                return blend(np.full((1, 1, 1), mean, np.uint8), image, factor)
            case "brightness":
                return blend(np.zeros((1, 1, 1), np.uint8), image, factor)
            case "sharpness":
                return blend(smooth(image), image, factor)
            case "shear_x":
                return self._warp(image, [[1, 0.3 * signed, 0], [0, 1, 0]])
            case "shear_y":
                return self._warp(image, [[1, 0, 0], [0.3 * signed, 1, 0]])
            case "translate_x":
                return self._warp(image, [[1, 0, 0.45 * signed * width], [0, 1, 0]])
            case "translate_y":
                return self._warp(image, [[1, 0, 0], [0, 1, 0.45 * signed * height]])
        raise UserError(f"RandAugment has no operation {name!r}", nearest(name, OPERATIONS))

    def _warp(self, image: Image, to_input: Sequence[Sequence[float]]) -> Image:
        return warp(image, to_input, self.fill)


def luma(image: Image) -> UInt8[np.ndarray, "h w"]:
    """Pillow's grey: BT.601 in 16 bits, rounded."""
    weights = np.int32([19595, 38470, 7471])
    return ((image.astype(np.int32) @ weights + 0x8000) >> 16).astype(np.uint8)


def autocontrast(image: Image) -> Image:
    """Each channel stretched so that its darkest value is 0 and its brightest 255, fractions dropped."""
    channels = []
    for channel in range(3):
        values = np.ascontiguousarray(image[..., channel])
        low, high = float(values.min()), float(values.max())
        if high > low:
            scale = 255 / (high - low)
            values = cv2.LUT(values, np.clip(np.trunc(_LEVELS * scale - low * scale), 0, 255).astype(np.uint8))
        channels.append(values)
    return np.stack(channels, axis=-1)


def smooth(image: Image) -> Image:
    """A weighted 3x3 mean, rounded; the border stays as it is."""
    smoothed = image.copy()
    if min(image.shape[:2]) > 2:
        means = cv2.filter2D(image.astype(np.float32), -1, _SMOOTH)[1:-1, 1:-1]
        smoothed[1:-1, 1:-1] = np.clip(np.floor(means + np.float32(0.5 + 1e-4)), 0, 255).astype(np.uint8)
    return smoothed


def rotation(degrees: float, height: int, width: int) -> Float[np.ndarray, "2 3"]:
    """From a place in an image turned counter-clockwise about its centre to the place in the image."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


def warp(image: Image, to_input: Sequence[Sequence[float]], fill: tuple[int, int, int]) -> Image:
    """The image at `to_input @ (x, y, 1)`, with pixel centres at half integers: `PIL.Image.transform`, bicubic."""
    height, width = image.shape[:2]
    (a, b, c), (d, e, f) = to_input
    columns, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    (left, of_column), (top, of_row) = (_taps(place, side) for place, side in ((x, width), (y, height)))
    # Beyond the edge its pixels repeat; two of them are all that a tap can reach.
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge").reshape(-1, 3)
    first = top * (width + 4) + left
    made = np.zeros((height, width, 3), np.float32)
    for down, row_weight in of_row.items():
        line = np.zeros_like(made)
        for right, weight in of_column.items():
            line += weight[..., None] * padded.take(first + (down * (width + 4) + right), axis=0)
        made += row_weight[..., None] * line
    # What is a whole level must not lose one to rounding in float32.
    made = np.clip(made + np.float32(1e-3), 0, 255).astype(np.uint8)
    made[outside] = fill
    return made


def _taps(place: Float[np.ndarray, "h w"], side: int) -> tuple[np.ndarray, dict[int, Float32[np.ndarray, "h w"]]]:
    """Number of the first tap in the padded image, and the weights by the distance from it; without those that are 0
    everywhere, which a shear or translation leaves of the other axis."""
    place = np.clip(place, 0, side - 1e-9) - 0.5
    whole = np.floor(place)
    t = (place - whole).astype(np.float32)
    weights = (t * (t * (2 - t) - 1), 1 + t * t * (t - 2), t * (1 + t * (1 - t)), t * t * (t - 1))
    # One before the pixel, and two for the padding.
    return whole.astype(np.int32) + 1, {i: w for i, w in enumerate(weights) if w.any()}
