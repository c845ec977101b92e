"""The whole image in its own proportions, as evaluation sees it: no augmentation, as SAM is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vit_jax.data.placement import IMAGE, Move, Placement, moved
from vit_jax.data.preprocess import Preprocess


@dataclass(frozen=True)
class Padded:
    """Resizes by the longer side, and fills up with one colour."""

    preprocess: Preprocess
    places: bool = True
    random: bool = False
    takes_parts: bool = False

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator, moves: Mapping[str, Move] = IMAGE
    ) -> dict[str, Any]:
        """Replaces "image" uint8 [H, W, 3] by a view of `image_size`, and moves with it what else `moves` names."""
        others = {name: move for name, move in moves.items() if name != "image"}
        example = moved(example, self.draw(*example["image"].shape[:2], rng), others)
        return example | {"image": self.preprocess.to_uint8(example["image"])}

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Placement:
        """Where the view of an image of some size comes from; nothing is left to chance."""
        return self.preprocess.placement((height, width))


def build(
    image_size: int | Sequence[int],
    mean: Sequence[float] = (127.5, 127.5, 127.5),
    anchor: Literal["centre", "corner"] = "corner",
    interpolation: str = "bilinear",
) -> Padded:
    """The transform that shows what evaluation shows with `config.data.preprocess.resize="pad"`.

    Args:
        image_size: (height, width) of the view, or one number for a square.
        mean: the colour beside the image: that of the config's preprocessing, which makes zeros of it.
        anchor: where the image lies, in the "centre" or, as SAM has it, the upper left "corner".
        interpolation: see `vit_jax.data.preprocess.Preprocess`.
    """
    return Padded(Preprocess(image_size, resize="pad", anchor=anchor, interpolation=interpolation, mean=tuple(mean)))
