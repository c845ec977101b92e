"""3-Augment: crop and flip, one of grey, solarised and blurred, and colour jitter (DeiT III, arXiv:2204.07118, and the
authors' augment.py)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_jax.data import color as colors
from vit_jax.data import geometry
from vit_jax.data.interpolation import check_interpolation
from vit_jax.data.placement import IMAGE, Move, Placement, moved
from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.ranges import Share

_SIGMA = (0.1, 2.0)  # of the blur, in pixels


@dataclass(frozen=True)
class ThreeAugment:
    """One random view of one image; see `build` for the fields."""

    image_size: tuple[int, int]
    sampling: str
    area: tuple[float, float]
    aspect: tuple[float, float]
    interpolation: str
    antialias: bool
    flip: float
    jitter: float

    @property
    def places(self) -> bool:
        """Whether the drawn placement says all that happens to the image's geometry."""
        return True

    @property
    def random(self) -> bool:
        """Whether it may show another view of the same image."""
        return True

    @property
    def takes_parts(self) -> bool:
        """Whether it asks for no more of an image than it shows, see `vit_jax.data.field.Field.open`."""
        return True

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator, moves: Mapping[str, Move] = IMAGE
    ) -> dict[str, Any]:
        """Replaces "image" uint8 [H, W, 3] by a view of `image_size`, and moves with it what else `moves` names; the
        other fields pass through."""
        placement, color = self.draw(*example["image"].shape[:2], rng)
        example = moved(dict(example), placement, moves)
        return {**example, "image": color(example["image"])}

    def draw(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Placement, Callable[[geometry.Image], geometry.Image]]:
        """Where a view of an image of some size comes from, and what then happens to its colours."""
        box = geometry.CROP_BOXES[self.sampling](height, width, rng, self.area, self.aspect)
        # The same draws whatever is switched on, so that one option does not change what the others draw.
        u_flip, u_sigma = rng.random(2).tolist()
        chosen, factors, order = int(rng.integers(3)), rng.uniform(-1, 1, 3).tolist(), rng.permutation(3).tolist()

        def color(image: geometry.Image) -> geometry.Image:
            if chosen == 0:
                image = colors.grayscale(image)
            elif chosen == 1:
                image = colors.solarize(image)
            else:
                sigma = _SIGMA[0] + (_SIGMA[1] - _SIGMA[0]) * u_sigma
                image = colors.gaussian_blur(image, sigma, 2 * int(np.ceil(3 * sigma)) + 1)
            if self.jitter:
                for i in order:
                    jitter = (colors.brightness, colors.contrast, colors.saturation)[i]
                    image = jitter(image, 1 + self.jitter * factors[i])
            return image

        placement = Placement(
            box=box, size=self.image_size, flip=u_flip < self.flip, interpolation=self.interpolation,
            antialias=self.antialias,
        )  # fmt: skip
        return placement, color


def build(
    image_size: int | Sequence[int],
    sampling: str = "torchvision",
    area: Sequence[float] = (0.08, 1.0),
    aspect: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
    antialias: bool = True,
    flip: Share = 0.5,
    jitter: Share = 0.3,
) -> ThreeAugment:
    """3-Augment; the defaults are DeiT III's on ImageNet-1k.

    Args:
        image_size: (height, width) of the view, or one number for a square.
        sampling: how a crop is drawn, see `vit_jax.data.transforms.supervised.build`, like `area`, `aspect`,
            `interpolation` and `antialias`.
        flip: probability.
        jitter: half the width of the range around 1 from which the factors of brightness, contrast and saturation are
            drawn, which come in random order; 0 for none.

    Raises:
        UserError: for a value out of its range.
    """
    if sampling not in geometry.CROP_BOXES:
        raise UserError(f"There is no sampling named {sampling!r}", nearest(str(sampling), geometry.CROP_BOXES))
    check_interpolation(interpolation, antialias)
    return ThreeAugment(
        geometry.size_pair(image_size), sampling, geometry.bounds("area", area, 1), geometry.bounds("aspect", aspect),
        interpolation, antialias, flip, jitter,
    )  # fmt: skip
