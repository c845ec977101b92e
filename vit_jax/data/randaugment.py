"""RandAugment (Cubuk et al., arXiv:1909.13719) on uint8 images, as the ViT recipes used it.

The recipes' numbers were reached with TensorFlow's reading of the paper, whose habits are kept, since they are part of
the recipe:

- all 16 operations are equally likely and always applied; the magnitude is the same for all and never drawn (DeiT and
  MAE, after timm, apply half of them and draw it: `probability=0.5, magnitude_std=0.5`);
- magnitudes count from 0 to 10, and 15 or 20 extrapolate;
- magnitude 0 is not the identity: colours fade to a tenth, posterising keeps one bit, everything is solarised;
- what comes in from outside is grey 128, geometry samples the nearest pixel, shears are about the top left corner;
- translations and cutout were in pixels whatever the image's size, up to 100 of them and a square of 80 at magnitude
  10, with which a quarter to a third of all images of 96 to 32 pixels end as nothing but grey. Here they are the same
  shares of the image as at 224 pixels; a recipe for another size says `translate=100.0, cutout=40.0` to have its own;
- contrast blends with a grey of (number of pixels) / 256, not with the mean: big_vision mended that after the papers,
  which is `contrast="mean"` here.

In two places TensorFlow's outcome depends on its version: a solarising threshold of 256 or more (from magnitude 10)
leaves images as they are here, and posterising to 0 bits keeps the highest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vit_jax.data.geometry import Image
from vit_jax.errors import UserError
from vit_jax.naming import nearest

OPERATIONS = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "color", "contrast", "brightness",
    "sharpness", "shear_x", "shear_y", "translate_x", "translate_y", "cutout", "solarize_add",
)  # fmt: skip
_GREY = 128
# tf.image.rgb_to_grayscale: BT.601 in four digits; on uint8 it goes through [0, 1] and back by way of 255.5.
_LUMA = np.float32([0.2989, 0.5870, 0.1140]) * np.float32(255.5 / 255)
_SMOOTH = np.float32([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / np.float32(13)
_CONTRASTS = ("pixel_count", "mean")


@dataclass(frozen=True)
class RandAugment:
    """Applies `layers` operations drawn from `operations`.

    Args:
        layers: N of the paper.
        magnitude: M of the paper, 0 to 20.
        operations: which to draw from.
        translate: pixels of a translation at magnitude 10; None for 100/224 of the image's width or height.
        cutout: half the side of the cut square in pixels at magnitude 10; None for 40/224 of the image's shorter side.
        contrast: "pixel_count" or "mean", see the module.
        magnitude_std: standard deviation with which each operation draws its magnitude around M, cut off at 0 and at
            the larger of 10 and M.
        probability: with which a drawn operation is applied at all.

    Raises:
        UserError: for values out of their range.
    """

    layers: int
    magnitude: float
    operations: tuple[str, ...] = OPERATIONS
    translate: float | None = None
    cutout: float | None = None
    contrast: str = "pixel_count"
    magnitude_std: float = 0.0
    probability: float = 1.0

    def __post_init__(self):
        if isinstance(self.layers, bool) or not isinstance(self.layers, int) or self.layers < 1:
            raise UserError(f"layers={self.layers!r} of RandAugment is not a number of operations", "Give 1 or more")
        if not isinstance(self.magnitude, (int, float)) or not 0 <= self.magnitude <= 20:
            raise UserError(
                f"magnitude={self.magnitude!r} of RandAugment is out of range", "Give a number from 0 to 20"
            )
        if not isinstance(self.operations, Sequence) or isinstance(self.operations, str) or not self.operations:
            raise UserError(f"operations={self.operations!r} of RandAugment is not a list", "Give names")
        for name in self.operations:
            if name not in OPERATIONS:
                raise UserError(f"RandAugment has no operation {name!r}", nearest(name, OPERATIONS))
        for key in ("translate", "cutout"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0):
                raise UserError(f"{key}={value!r} of RandAugment is not a distance", "Give pixels, or leave it out")
        if not isinstance(self.magnitude_std, (int, float)) or self.magnitude_std < 0:
            raise UserError(f"magnitude_std={self.magnitude_std!r} of RandAugment is not a spread", "Give 0 or more")
        if not isinstance(self.probability, (int, float)) or not 0 <= self.probability <= 1:
            raise UserError(
                f"probability={self.probability!r} of RandAugment is out of range", "Give a number from 0 to 1"
            )
        if self.contrast not in _CONTRASTS:
            raise UserError(f"There is no contrast {self.contrast!r}", nearest(self.contrast, _CONTRASTS))
        object.__setattr__(self, "operations", tuple(self.operations))

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """One random augmentation of an image uint8 [H, W, 3]."""
        for _ in range(self.layers):
            # The same draws for every operation, so that a choice does not shift the draws after it.
            u_operation, u_sign, down, right = rng.random(4).tolist()
            name = self.operations[int(u_operation * len(self.operations))]
            magnitude = self.magnitude
            # Drawn only where they are asked for: the other recipes' draws stay what they were.
            if self.magnitude_std:
                drawn = rng.normal(magnitude, self.magnitude_std)
                magnitude = min(max(drawn, 0.0), max(10.0, magnitude))
            if self.probability == 1 or rng.random() < self.probability:
                sign = 1 if u_sign < 0.5 else -1
                image = self.apply(name, image, sign=sign, place=(down, right), magnitude=magnitude)
        return image

    def apply(
        self, name: str, image: Image, sign: int = 1, place: tuple[float, float] = (0.5, 0.5),
        magnitude: float | None = None,
    ) -> Image:  # fmt: skip
        """One operation.

        Args:
            name: one of `OPERATIONS`.
            sign: 1 or -1, the direction of what has one.
            place: centre of cutout, as fractions of height and width below 1.
            magnitude: instead of the policy's.
        """
        share = (self.magnitude if magnitude is None else magnitude) / 10
        enhancement = 1.8 * share + 0.1
        height, width = image.shape[:2]
        match name:
            case "autocontrast":
                return autocontrast(image)
            case "equalize":
                return equalize(image)
            case "invert":
                return 255 - image
            case "rotate":
                return rotate(image, sign * 30 * share)
            case "posterize":
                return posterize(image, int(4 * share))
            case "solarize":
                return np.where(image < np.int32(int(256 * share)), image, 255 - image)
            case "solarize_add":
                added = np.minimum(image.astype(np.int32) + int(110 * share), 255).astype(np.uint8)
                return np.where(image < 128, added, image)
            case "color":
                return blend(grayscale(image)[..., None], image, enhancement)
            case "contrast":
                mean = height * width / 256 if self.contrast == "pixel_count" else grayscale(image).mean()
                return blend(np.full((1, 1, 1), min(mean, 255), np.uint8), image, enhancement)
            case "brightness":
                return blend(np.zeros((1, 1, 1), np.uint8), image, enhancement)
            case "sharpness":
                return blend(smooth(image), image, enhancement)
            case "shear_x":
                return warp(image, [[1, sign * 0.3 * share, 0], [0, 1, 0]])
            case "shear_y":
                return warp(image, [[1, 0, 0], [sign * 0.3 * share, 1, 0]])
            case "translate_x":
                return warp(image, [[1, 0, sign * share * _pixels(self.translate, 100, width)], [0, 1, 0]])
            case "translate_y":
                return warp(image, [[1, 0, 0], [0, 1, sign * share * _pixels(self.translate, 100, height)]])
            case "cutout":
                pad = int(_pixels(self.cutout, 40, min(height, width)) * share)
                return cutout(image, pad, (int(place[0] * height), int(place[1] * width)))
        raise UserError(f"RandAugment has no operation {name!r}", nearest(name, OPERATIONS))


def _pixels(given: float | None, at_224: float, side: int) -> float:
    return at_224 * side / 224 if given is None else given


def blend(first: UInt8[np.ndarray, "..."], second: Image, factor: float) -> Image:
    """From `first` (0) to `second` (1) and beyond, cut off at 0 and 255, fractions dropped."""
    if factor == 1:
        return second
    first = first.astype(np.float32)
    return np.clip(first + np.float32(factor) * (second - first), 0, 255).astype(np.uint8)


def grayscale(image: Image) -> UInt8[np.ndarray, "h w"]:
    """Luma, fractions dropped."""
    return np.minimum(image.astype(np.float32) @ _LUMA, 255).astype(np.uint8)


def smooth(image: Image) -> Image:
    """A weighted 3x3 mean, fractions dropped; the border stays as it is."""
    smoothed = image.copy()
    if min(image.shape[:2]) > 2:
        means = cv2.filter2D(image.astype(np.float32), -1, _SMOOTH)
        # A flat area must not lose a level to rounding in float32.
        smoothed[1:-1, 1:-1] = np.floor(means[1:-1, 1:-1] + 1e-4).astype(np.uint8)
    return smoothed


def autocontrast(image: Image) -> Image:
    """Each channel stretched so that its darkest value is 0 and its brightest 255."""
    table = np.empty((256, 3), np.uint8)
    for channel in range(3):
        low, high = (float(f(image[..., channel])) for f in (np.min, np.max))
        levels = np.arange(256.0)
        if high > low:
            levels = np.clip((levels - low) * 255 / (high - low), 0, 255)
        table[:, channel] = np.floor(levels + 1e-9)
    return _looked_up(table, image)


def equalize(image: Image) -> Image:
    """Each channel's histogram made flat, in whole numbers like Pillow's."""
    table = np.empty((256, 3), np.uint8)
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.cumsum(counts) - counts
        table[:, channel] = np.minimum((below + step // 2) // step, 255) if step else np.arange(256)
    return _looked_up(table, image)


def posterize(image: Image, bits: int) -> Image:
    """Only the highest `bits` bits, at least one."""
    return image & np.uint8(256 - 2 ** min(8 - bits, 7))


def rotate(image: Image, degrees: float) -> Image:
    """About the centre, counter-clockwise."""
    height, width = image.shape[:2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = (width - 1) / 2, (height - 1) / 2
    return warp(image, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


def warp(image: Image, to_input: Sequence[Sequence[float]] | Float[np.ndarray, "2 3"]) -> Image:
    """The nearest pixel of the input at `to_input @ (x, y, 1)`, grey outside."""
    return cv2.warpAffine(
        image, np.array(to_input, float), image.shape[1::-1], flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=(_GREY,) * 3,
    )  # fmt: skip


def cutout(image: Image, pad: int, centre: tuple[int, int]) -> Image:
    """A grey square of side 2 * `pad` around `centre` (row, column), where it lies inside the image."""
    image = image.copy()
    rows, columns = (slice(max(0, c - pad), c + pad) for c in centre)
    image[rows, columns] = _GREY
    return image


def _looked_up(table: UInt8[np.ndarray, "256 3"], image: Image) -> Image:
    return np.stack([cv2.LUT(np.ascontiguousarray(image[..., c]), table[:, c]) for c in range(3)], axis=-1)
