"""Augmentation for supervised image classification: crop, rotate, shift, flip, RandAugment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_jax.data import geometry
from vit_jax.data.interpolation import check_interpolation
from vit_jax.data.placement import IMAGE, Move, Placement, moved
from vit_jax.data.randaugment import RandAugment
from vit_jax.data.timm_randaugment import TimmRandAugment
from vit_jax.errors import UserError
from vit_jax.naming import construct, nearest

_CROPS = ("random", "inception", "none")
_POLICIES = {"big_vision": RandAugment, "timm": TimmRandAugment}
_BORDERS = ("replicate", "constant")


@dataclass(frozen=True)
class Supervised:
    """One random view of one image; see `build` for the fields."""

    image_size: tuple[int, int]
    sampling: str | None
    area: tuple[float, float]
    aspect: tuple[float, float]
    interpolation: str
    antialias: bool
    rotate: float
    shift: float
    flip: bool
    border: str
    randaugment: RandAugment | TimmRandAugment | None

    @property
    def places(self) -> bool:
        """Whether `draw` says all that happens to the image's geometry: RandAugment shears and shifts by itself."""
        return self.randaugment is None

    @property
    def needs_rgb(self) -> bool:
        """Whether it changes colours, see `vit_jax.data.field.Field.is_rgb`."""
        return self.randaugment is not None

    @property
    def random(self) -> bool:
        """Whether it may show another view of the same image."""
        drawn = self.sampling is not None or self.randaugment is not None
        return drawn or self.flip or self.rotate > 0 or self.shift > 0

    @property
    def takes_parts(self) -> bool:
        """Whether it asks for no more of an image than it shows, see `vit_jax.data.field.Field.open`."""
        return True

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator, moves: Mapping[str, Move] = IMAGE
    ) -> dict[str, Any]:
        """Replaces "image" uint8 [H, W, 3] by a view of `image_size`, and moves with it what else `moves` names; the
        other fields pass through."""
        example = moved(example, self.draw(*example["image"].shape[:2], rng), moves)
        if self.randaugment is not None:
            example["image"] = self.randaugment(example["image"], rng)
        return example

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Placement:
        """Where a view of an image of some size comes from."""
        box = (0, 0, height, width)
        if self.sampling is not None:
            box = geometry.CROP_BOXES[self.sampling](height, width, rng, self.area, self.aspect)
        # The same draws whatever is switched on, so that switching rotation on leaves the flips as they were.
        u_flip, u_angle, u_down, u_right = rng.random(4).tolist()
        return Placement(
            box=box,
            size=self.image_size,
            flip=self.flip and u_flip < 0.5,
            degrees=self.rotate * (2 * u_angle - 1),
            shift=(self.shift * (2 * u_down - 1), self.shift * (2 * u_right - 1)),
            interpolation=self.interpolation,
            antialias=self.antialias,
            border=self.border,
        )


def build(
    image_size: int | Sequence[int],
    crop: str = "random",
    sampling: str = "inception",
    area: Sequence[float] = (0.05, 1.0),
    aspect: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = "area",
    antialias: bool = True,
    rotate: float = 0.0,
    shift: float = 0.0,
    flip: bool = True,
    border: str = "replicate",
    randaugment: Mapping[str, Any] | None = None,
) -> Supervised:
    """The transform of the supervised recipes.

    Args:
        image_size: (height, width) of the view, or one number for a square.
        crop: "random" takes a random part of the image, "none" squashes the whole of it. "inception", its older name,
            is "random" with the sampling "inception".
        sampling: how the part is drawn: "inception" as TensorFlow's `sample_distorted_bounding_box`, "torchvision" as
            its `RandomResizedCrop`, or "byol" as BYOL does. The first takes smaller parts: on photos of 500x375 and
            areas of 8% to 100%, 37% of the image on average, the others 43% and 52%. "largest" takes the largest part
            of its aspect that there is, at a random place: with area and aspect (1, 1) CLIP's random square.
        area: bounds on the crop's share of the image's pixels, or with "largest" of those of the largest part.
        aspect: bounds on the crop's width / height.
        interpolation: how the part is resized: "area" averages when shrinking and is bilinear when enlarging;
            "bilinear" and "bicubic" are Pillow's, or TensorFlow's with `antialias=False`. Rotation and shift have a
            bilinear interpolation of their own.
        antialias: whether "bilinear" and "bicubic" average when shrinking.
        rotate: up to so many degrees either way, uniformly.
        shift: up to this fraction of the view's height and width, uniformly.
        flip: whether to mirror half of the views.
        border: what rotation and shift bring in from outside the crop: "replicate" the edge or "constant" black.
        randaugment: what follows on the finished view, for example `{"layers": 2, "magnitude": 10}`: with the `policy`
            "big_vision", the default, the arguments of `vit_jax.data.randaugment.RandAugment`, and with "timm" those of
            `vit_jax.data.timm_randaugment.TimmRandAugment`.

    Raises:
        UserError: for a value out of its range.
    """
    for name, value, known in (("crop", crop, _CROPS), ("border", border, _BORDERS)):
        if value not in known:
            raise UserError(f"There is no {name} named {value!r}", nearest(value, known))
    if sampling not in geometry.CROP_BOXES:
        raise UserError(f"There is no sampling named {sampling!r}", nearest(str(sampling), geometry.CROP_BOXES))
    if crop == "inception" and sampling != "inception":
        raise UserError(f"The crop 'inception' is not drawn by the sampling {sampling!r}", "Set crop='random'")
    check_interpolation(interpolation, antialias)
    if interpolation != "area" and (rotate or shift):
        raise UserError(
            f"Rotation and shift do not have the interpolation {interpolation!r}", "Leave one or the other out"
        )
    area, aspect = geometry.bounds("area", area, 1), geometry.bounds("aspect", aspect)
    if not 0 <= rotate <= 180:
        raise UserError(f"rotate={rotate} is not an angle", "Give degrees from 0 to 180")
    if not 0 <= shift < 1:
        raise UserError(f"shift={shift} is not a fraction", "Give a number from 0 to below 1")
    if not isinstance(flip, bool):
        raise UserError(f"flip={flip!r} is neither True nor False", "Give one of them")
    size = geometry.size_pair(image_size)
    policy = _policy(randaugment) if randaugment else None
    return Supervised(
        image_size=size, sampling=None if crop == "none" else sampling, area=area, aspect=aspect,
        interpolation=interpolation, antialias=antialias, rotate=float(rotate), shift=float(shift), flip=flip,
        border=border, randaugment=policy,
    )  # fmt: skip


def _policy(section: Mapping[str, Any]) -> RandAugment | TimmRandAugment:
    values = dict(section)
    name = values.pop("policy", "big_vision")
    if name not in _POLICIES:
        raise UserError(f"There is no policy of RandAugment named {name!r}", nearest(str(name), _POLICIES))
    return construct(_POLICIES[name], values, "config.data.transform.randaugment", ("policy",))
