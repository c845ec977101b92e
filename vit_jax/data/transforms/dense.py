"""One random view of an image whose pixels have classes: scale, crop, flip, and photometric distortion.

The recipe of mmseg, with which UPerNet, Swin and SegFormer (arXiv:2105.15203, section 4.1) are trained; distortion as
in SSD (arXiv:1512.02325).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import cv2
import numpy as np

from vit_jax.data import geometry
from vit_jax.data.interpolation import check_interpolation
from vit_jax.data.placement import IMAGE, Move, Placement, moved
from vit_jax.errors import UserError
from vit_jax.ranges import Count, Range, Share

_TRIES = 10  # crops that are looked at, the last of which is taken whatever it holds
_BRIGHTER, _FACTORS, _HUES = 32.0, (0.5, 1.5), 18  # levels either way; contrast and saturation; of 180 either way


@dataclass(frozen=True)
class DenseView:
    """See `build` for the fields."""

    image_size: tuple[int, int]
    scale: tuple[float, float]
    base: int
    most: float
    labels: str
    ignore: int
    flip: bool
    distort: bool
    interpolation: str
    fill: tuple[int, int, int]

    @property
    def places(self) -> bool:
        """Whether the drawn placement says all that happens to the image's geometry."""
        return True

    @property
    def takes_parts(self) -> bool:
        """Whether it asks for no more of an image than it shows, see `vit_jax.data.field.Field.open`."""
        return True

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator, moves: Mapping[str, Move] = IMAGE
    ) -> dict[str, Any]:
        """Replaces "image" uint8 [H, W, 3] by a view of `image_size`, and moves with it what else `moves` names.

        Raises:
            UserError: the classes by which crops are chosen are not there.
        """
        labels = None
        if self.most < 1:
            if self.labels not in example or self.labels not in moves:
                raise UserError(
                    f"The transform 'dense' finds no field {self.labels!r} by which it could choose a crop",
                    "Name the field of classes in config.data.transform.labels, or set most=1",
                )

            def labels(placement: Placement) -> np.ndarray:
                return moves[self.labels](example[self.labels], placement)

        placement = self.draw(*example["image"].shape[:2], rng, labels)
        distortion = rng.random(4), rng.random(4)
        example = moved(example, placement, moves)
        return {**example, "image": distorted(example["image"], *distortion)} if self.distort else example

    def draw(
        self,
        height: int,
        width: int,
        rng: np.random.Generator,
        labels: Callable[[Placement], np.ndarray] | None = None,
    ) -> Placement:
        """Where a view of an image of some size comes from.

        Args:
            labels: the classes in a view; None where any crop will do.
        """
        low, high = self.scale
        factor = self.base * rng.uniform(low, high) / min(height, width)
        sides = [max(1, round(side / factor)) for side in self.image_size]
        flip = self.flip and rng.random() < 0.5
        for _ in range(_TRIES if labels is not None else 1):
            # Where the image is smaller than the view it lies in its corner.
            corner = [int(rng.integers(max(of - side, 0) + 1)) for of, side in zip((height, width), sides, strict=True)]
            placement = Placement(
                (*corner, *sides), self.image_size, flip, interpolation=self.interpolation, fill=self.fill
            )
            if labels is None or self._mixed(labels(placement)):
                break
        return placement

    def _mixed(self, labels: np.ndarray) -> bool:
        """Whether there are several classes, none of which has too many of the pixels."""
        classes, counts = np.unique(labels, return_counts=True)
        counts = counts[classes != self.ignore]
        return len(counts) > 1 and counts.max() <= self.most * counts.sum()


def distorted(image: geometry.Image, switches: Sequence[float], amounts: Sequence[float]) -> geometry.Image:
    """Brightness, contrast, saturation and hue, each with odds of one half, contrast before or after the colours.

    Args:
        switches: four numbers in [0, 1): whether each is changed, and of the second also the order.
        amounts: four more: how much.
    """
    shift = (2 * amounts[0] - 1) * _BRIGHTER
    contrast, saturation = (_FACTORS[0] + (_FACTORS[1] - _FACTORS[0]) * amounts[k] for k in (1, 2))
    turn = int((2 * amounts[3] - 1) * _HUES)
    if switches[0] < 0.5:
        image = _levels(image, 1.0, shift)
    contrasts, first = switches[1] % 0.5 < 0.25, switches[1] < 0.5
    if contrasts and first:
        image = _levels(image, contrast, 0.0)
    if switches[2] < 0.5 or switches[3] < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        if switches[2] < 0.5:
            hsv[..., 1] = _levels(hsv[..., 1], saturation, 0.0)
        if switches[3] < 0.5:
            hsv[..., 0] = (hsv[..., 0].astype(int) + turn) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return _levels(image, contrast, 0.0) if contrasts and not first else image


def _levels(values: np.ndarray, factor: float, shift: float) -> np.ndarray:
    return np.clip(values.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)


def build(
    image_size: int | Sequence[int],
    scale: Sequence[float] = (0.5, 2.0),
    base: Count | None = None,
    most: Share = 0.75,
    labels: str = "segmentation",
    ignore: int = 255,
    flip: bool = True,
    distort: bool = True,
    interpolation: str = "area",
    fill: Sequence[Annotated[int, Range(0, 255)]] = (124, 116, 104),
) -> DenseView:
    """The transform of the segmentation recipes.

    Args:
        image_size: (height, width) of the view, or one number for a square.
        scale: bounds on how large the image is made before it is cropped, in units of `base`.
        base: pixels of its shorter side at a scale of 1; None for the shorter side of `image_size`.
        most: up to ten crops are looked at for one in which no class has more than this share of the pixels; 1 takes
            the first.
        labels: the field of classes that says so.
        ignore: what stands there for no class.
        flip: whether to mirror half of the views.
        distort: brightness, contrast, saturation and hue.
        interpolation: see `vit_jax.data.transforms.supervised.build`.
        fill: colour around an image that is smaller than the view; by default ImageNet's mean.

    Raises:
        UserError: for a value out of its range.
    """
    check_interpolation(interpolation, True)
    size = geometry.size_pair(image_size)
    if len(fill) != 3:
        raise UserError(f"fill={list(fill)} is not a colour", "Give red, green and blue")
    return DenseView(
        size, geometry.bounds("scale", scale), base or min(size), most, labels, ignore, flip, distort, interpolation,
        tuple(fill),
    )  # fmt: skip
