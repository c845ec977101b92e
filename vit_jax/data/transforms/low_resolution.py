"""A part of a photo, and the same in a lower resolution: what super-resolution learns from.

The low resolution is Pillow's bicubic of the whole photo, to the bit, whatever part of it is cut out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from vit_jax.data import geometry
from vit_jax.data.placement import Move
from vit_jax.data.resample import resample
from vit_jax.errors import UserError
from vit_jax.ranges import Range

_MARGIN = 2  # pixels of the low resolution that the filter sees beyond an edge


@dataclass(frozen=True)
class LowResolution:
    """See `build` for the fields."""

    image_size: tuple[int, int]
    scale: int
    crop: str
    flip: bool
    turn: bool

    places = False
    makes = ("high",)

    @property
    def random(self) -> bool:
        """Whether it may show another part of the same photo."""
        return self.crop == "random" or self.flip or self.turn

    @property
    def takes_parts(self) -> bool:
        """Whether it asks for no more of an image than it shows, see `vit_jax.data.field.Field.open`."""
        return True

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator, moves: Mapping[str, Move] | None = None
    ) -> dict[str, Any]:
        """Replaces "image" uint8 [H, W, 3] by the low resolution of a part, uint8 of `image_size`, and adds "high",
        `scale` times as large; the other fields pass through.

        Raises:
            UserError: for a photo that is smaller than the part.
        """
        del moves
        photo, scale = example["image"], self.scale
        sides, part = photo.shape[:2], tuple(scale * side for side in self.image_size)
        if any(side < of for side, of in zip(sides, part, strict=True)):
            raise UserError(
                f"A photo of {sides[1]}x{sides[0]} pixels has no part of {part[1]}x{part[0]}",
                f"Leave it out, or make image_size smaller: it is reduced by {scale}",
            )
        low, high = [], []
        u_flip, u_turn = rng.random(2).tolist()
        for side, of in zip(sides, part, strict=True):
            start = (side - of) // 2 if self.crop == "centre" else int(rng.integers(side - of + 1))
            # What the filter sees beyond the part, in whole pixels of the low resolution.
            before, behind = (min(_MARGIN, rest // scale) for rest in (start, side - of - start))
            high.append(slice(start - before * scale, start + of + behind * scale))
            low.append(slice(before, before + of // scale))
        wide = np.ascontiguousarray(photo[high[0], high[1]])
        small = resample(wide, tuple(side // scale for side in wide.shape[:2]), "bicubic")[low[0], low[1]]
        big = wide[scale * low[0].start : scale * low[0].stop, scale * low[1].start : scale * low[1].stop]
        views = [small, big]
        if self.flip and u_flip < 0.5:
            views = [geometry.flip(view) for view in views]
        if self.turn:
            views = [np.rot90(view, int(4 * u_turn)) for view in views]
        small, big = map(np.ascontiguousarray, views)
        return {**example, "image": small, "high": big}


def build(
    image_size: int | Sequence[int],
    scale: Annotated[int, Range(2)],
    size: int | Sequence[int] | None = None,
    crop: Literal["random", "centre"] = "random",
    flip: bool = True,
    turn: bool = False,
) -> LowResolution:
    """Parts of photos in two resolutions.

    Args:
        image_size: (height, width) of the low resolution, or one number for a square.
        scale: pixels of the high resolution along a side for each of the low one.
        size: replaces `image_size`, where an evaluation shows larger parts than training.
        crop: where the part is: anywhere ("random") or in the middle ("centre").
        flip: whether half of the parts are mirrored.
        turn: whether they are turned by 0, 90, 180 or 270 degrees, which asks for squares.

    Raises:
        UserError: for a value out of its range.
    """
    size = geometry.size_pair(image_size if size is None else size)
    if turn and size[0] != size[1]:
        raise UserError(f"Parts of {size[1]}x{size[0]} are not squares, which turn=True asks for", "Set turn=False")
    return LowResolution(size, scale, crop, flip, turn)
