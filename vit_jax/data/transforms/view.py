"""One random view of an image for contrastive learning: crop, flip, colour distortion, grey, blur, solarise.

SimCLR (arXiv:2002.05709, appendix A) and MoCo v3 (arXiv:2104.02057, whose views are those of BYOL, arXiv:2006.07733)
differ in the arguments only; two of these views are `vit_jax.data.transforms.two_views`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vit_jax.data import color as colors
from vit_jax.data import geometry
from vit_jax.data.interpolation import check_interpolation
from vit_jax.data.placement import IMAGE, Move, Placement, moved
from vit_jax.errors import UserError
from vit_jax.naming import nearest

# Older names of the samplings.
_CROPS = {"uniform": "torchvision", "inception": "inception"}


@dataclass(frozen=True)
class View:
    """See `build` for the fields."""

    image_size: tuple[int, int]
    sampling: str
    area: tuple[float, float]
    aspect: tuple[float, float]
    interpolation: str
    antialias: bool
    flip: float
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    gray: float
    blur: float
    blur_sigma: tuple[float, float]
    solarize: float
    blur_sigma_per: str

    @property
    def shared_draws(self) -> int:
        """How many random numbers the examples of a batch share, see `vit_jax.data.pipeline`."""
        return int(self.blur_sigma_per == "batch")

    @property
    def places(self) -> bool:
        """Whether the drawn placement says all that happens to the image's geometry."""
        return True

    @property
    def needs_rgb(self) -> bool:
        """Whether it changes colours, see `vit_jax.data.field.Field.is_rgb`."""
        return any((self.jitter, self.gray, self.blur, self.solarize))

    @property
    def takes_parts(self) -> bool:
        """Whether it asks for no more of an image than it shows, see `vit_jax.data.field.Field.open`."""
        return True

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator, moves: Mapping[str, Move] = IMAGE
    ) -> dict[str, Any]:
        """Replaces "image" uint8 [H, W, 3] by a view of `image_size`, and moves with it what else `moves` names; the
        other fields pass through."""
        example = dict(example)
        shared = example.pop("shared_draws", ())
        placement, color = self.draw(*example["image"].shape[:2], rng, *shared)
        example = moved(example, placement, moves)
        return {**example, "image": color(example["image"])}

    def draw(
        self, height: int, width: int, rng: np.random.Generator, u_sigma: float | None = None
    ) -> tuple[Placement, Callable[[geometry.Image], geometry.Image]]:
        """Where a view of an image of some size comes from, and what then happens to its colours.

        Args:
            u_sigma: from 0 to 1, where in its range the blur's standard deviation is; None draws it.

        Raises:
            UserError: when the smallest crop would not hold a pixel.
        """
        if self.area[0] * height * width < 1:
            raise UserError(
                f"An image of {height}x{width} pixels is too small for crops of {self.area[0]:.0%} of it",
                "Raise area in config.data.transform, or leave such images out",
            )
        box = geometry.CROP_BOXES[self.sampling](height, width, rng, self.area, self.aspect)
        # The same draws whatever is switched on, so that one option does not change what the others draw.
        u_flip, u_jitter, u_gray, u_blur, u_own_sigma, u_solarize = rng.random(6).tolist()
        factors, order = rng.uniform(-1, 1, 4).tolist(), rng.permutation(4).tolist()
        place = u_own_sigma if u_sigma is None else u_sigma

        def color(image: geometry.Image) -> geometry.Image:
            if u_jitter < self.jitter:
                image = self._distort(image, factors, order)
            if u_gray < self.gray:
                image = colors.grayscale(image)
            if u_blur < self.blur:
                low, high = self.blur_sigma
                # SimCLR's kernel: a tenth of the image's height, which at 224 cuts nothing visible off.
                taps = 2 * max(1, self.image_size[0] // 10 // 2) + 1
                image = colors.gaussian_blur(image, low + (high - low) * place, taps)
            return colors.solarize(image) if u_solarize < self.solarize else image

        placement = Placement(
            box=box,
            size=self.image_size,
            flip=u_flip < self.flip,
            interpolation=self.interpolation,
            antialias=self.antialias,
        )
        return placement, color

    def _distort(self, image: geometry.Image, factors: Sequence[float], order: Sequence[int]) -> geometry.Image:
        operations = (colors.brightness, colors.contrast, colors.saturation, colors.hue)
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        for i in order:
            if strengths[i]:
                # The first three multiply around 1 and do not go below 0, the hue turns around 0.
                centre = 0.0 if operations[i] is colors.hue else 1.0
                value = centre + strengths[i] * factors[i]
                image = operations[i](image, max(value, 0.0) if centre else value)
        return image


def build(
    image_size: int | Sequence[int],
    sampling: str = "torchvision",
    crop: str | None = None,
    area: Sequence[float] = (0.08, 1.0),
    aspect: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = "area",
    antialias: bool = True,
    flip: float = 0.5,
    jitter: float = 0.8,
    brightness: float = 0.8,
    contrast: float = 0.8,
    saturation: float = 0.8,
    hue: float = 0.2,
    strength: float = 1.0,
    gray: float = 0.2,
    blur: float = 0.5,
    blur_sigma: Sequence[float] = (0.1, 2.0),
    solarize: float = 0.0,
    blur_sigma_per: Literal["image", "batch"] = "image",
) -> View:
    """A view; the defaults are SimCLR's on ImageNet.

    Args:
        image_size: (height, width) of the view, or one number for a square.
        sampling: how a crop is drawn, see `vit_jax.data.transforms.supervised.build`, like `interpolation` and
            `antialias`.
        crop: an older name of `sampling`, where "torchvision" was "uniform".
        area: bounds on the crop's share of the image's pixels.
        aspect: bounds on the crop's width / height.
        flip: probability, like `jitter` (of the four colour distortions together, in random order), `gray`, `blur` and
            `solarize`.
        brightness: half the width of the range around 1 from which the factor is drawn, like `contrast` and
            `saturation`. SimCLR's first version added to the brightness instead.
        hue: largest turn either way, in turns of the colour circle, at most 0.5.
        strength: multiplies the four: s of SimCLR's appendix A.
        blur_sigma: bounds on the blur's standard deviation in pixels.
        blur_sigma_per: whether each "image" draws it, or a "batch" in training has one, as in SimCLR's code, for the
            first and the second view apart.

    Raises:
        UserError: for a value out of its range.
    """
    if crop is not None and crop not in _CROPS:
        raise UserError(f"There is no crop named {crop!r}", nearest(crop, _CROPS))
    sampling = sampling if crop is None else _CROPS[crop]
    if sampling not in geometry.CROP_BOXES:
        raise UserError(f"There is no sampling named {sampling!r}", nearest(str(sampling), geometry.CROP_BOXES))
    check_interpolation(interpolation, antialias)
    area, aspect = geometry.bounds("area", area, 1), geometry.bounds("aspect", aspect)
    blur_sigma = geometry.bounds("blur_sigma", blur_sigma)
    shares = {"flip": flip, "jitter": jitter, "gray": gray, "blur": blur, "solarize": solarize}
    for name, value in shares.items():
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise UserError(f"{name}={value!r} is not a probability", "Give a number from 0 to 1")
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    for name, value in {**amounts, "strength": strength}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise UserError(f"{name}={value!r} is not a strength", "Give a number of at least 0")
    amounts = {name: float(strength * value) for name, value in amounts.items()}
    if amounts["hue"] > 0.5:
        raise UserError(f"hue={hue} times strength={strength} is more than half a turn", "Give at most 0.5")
    return View(
        image_size=geometry.size_pair(image_size), sampling=sampling, area=area, aspect=aspect, blur_sigma=blur_sigma,
        interpolation=interpolation, antialias=antialias, blur_sigma_per=blur_sigma_per,
        **amounts, **{name: float(value) for name, value in shares.items()},
    )  # fmt: skip
