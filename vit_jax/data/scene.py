"""Made-up images whose every pixel is known: objects on a background, over one another, and what is seen of each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from vit_jax.data.geometry import Image

# Of an object that others cover, so much has to be seen for it to be one: the share of its pixels.
_LEAST_SEEN = 0.25
_LEAST_PIXELS = 4
_MOST_COVERED = 0.2  # of what is there already, by what is put over it
_ATTEMPTS = 10


class Part(NamedTuple):
    """A part of an object, or the whole of it.

    Args:
        mask: its pixels in the object's picture.
        kind: number of its class.
    """

    mask: Bool[np.ndarray, "h w"]
    kind: int


class _Placed(NamedTuple):
    mask: Bool[np.ndarray, "H W"]
    kind: int
    whole: int  # pixels before others covered it


class Scene:
    """A background, and what is put on it.

    Args:
        background: the image to begin with.
        rng: for where objects go.
    """

    def __init__(self, background: Image, rng: np.random.Generator):
        self.image = background.copy()
        self._rng = rng
        self._labels = np.zeros(background.shape[:2], np.uint8)
        self._placed: list[_Placed] = []

    def put(self, picture: UInt8[np.ndarray, "h w 4"], parts: Sequence[Part], must: bool) -> bool:
        """Puts an object somewhere into the image, where it covers no more than a fifth of what is there already.

        Args:
            picture: RGB and opacity, not larger than the image.
            parts: from the whole to the smallest part. A label is that of the last part that has the pixel.
            must: whether to put it somewhere even if it covers more.

        Returns:
            Whether it was put.
        """
        solid = picture[..., 3] > 127
        room = [of - own for of, own in zip(self._labels.shape, solid.shape, strict=True)]
        for _ in range(_ATTEMPTS):
            top, left = (int(self._rng.integers(side + 1)) for side in room)
            over = (slice(top, top + solid.shape[0]), slice(left, left + solid.shape[1]))
            covered = max(((placed.mask[over] & solid).sum() / placed.whole for placed in self._placed), default=0.0)
            if covered <= _MOST_COVERED:
                break
        else:
            if not must:
                return False
        alpha = picture[..., 3:].astype(np.float32) / 255
        self.image[over] = np.round(self.image[over] * (1 - alpha) + picture[..., :3] * alpha).astype(np.uint8)
        for placed in self._placed:
            placed.mask[over] &= ~solid
        for part in parts:
            mask = np.zeros(self._labels.shape, bool)
            mask[over] = part.mask
            self._placed.append(_Placed(mask, part.kind, int(mask.sum())))
            self._labels[mask] = part.kind
        return True

    def example(self) -> dict[str, Any]:
        """The fields image, segmentation (uint8 [H, W], 0 for the background), masks (of what is seen of each part)
        and boxes ([n, 5] of left, top, right, bottom and class); the same objects in both, each at least four pixels
        and a quarter of what it was before others covered it."""
        seen = [
            placed
            for placed in self._placed
            if placed.mask.sum() >= max(_LEAST_PIXELS, _LEAST_SEEN * placed.whole)
        ]  # fmt: skip
        boxes = np.zeros((len(seen), 5))
        for box, placed in zip(boxes, seen, strict=True):
            rows, columns = np.flatnonzero(placed.mask.any(1)), np.flatnonzero(placed.mask.any(0))
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, placed.kind
        masks = [{"segmentation": placed.mask.astype(np.uint8), "class": placed.kind} for placed in seen]
        return {"image": self.image, "segmentation": self._labels, "masks": masks, "boxes": boxes}


def texture(size: tuple[int, int], rng: np.random.Generator) -> Image:
    """A made-up background: two colours that run into each other in clouds, and grain."""
    height, width = size
    colors = rng.uniform(20, 235, (2, 3))
    cells = rng.integers(2, 9, 2)
    clouds = cv2.resize(rng.uniform(0, 1, cells).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, rng.uniform(2, 12), (height, width, 1))
    mixed = colors[0] + (colors[1] - colors[0]) * clouds[..., None] + grain
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def filled(mask: UInt8[np.ndarray, "h w"], color: Sequence[float]) -> UInt8[np.ndarray, "h w 4"]:
    """A picture of one colour, as opaque as `mask` says."""
    return np.dstack([np.broadcast_to(np.round(color).astype(np.uint8), (*mask.shape, 3)), mask])
