"""What is left of an image where a generator was told to leave it alone."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool

from vit_jax.data.seeds import derived_seed
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.of_images import OfImages, asked_of_images, signed
from vit_jax.ranges import Count, Natural


@dataclasses.dataclass(frozen=True)
class KeptPixels(OfImages):
    """Real images of which a box is drawn anew. Of all pixels outside of the boxes: `exact`, the share that comes back
    to the bit; `l1`, the mean absolute difference of values from 0 to 1; `psnr` in decibels, where anything differs.
    `new` is the mean absolute difference inside, next to nothing of a generator that draws nothing. See `OfImages` for
    the other arguments.

    Args:
        paste: whether the image's own pixels are put back, which makes `exact` 1.
    """

    paste: bool = False
    gives: ClassVar[tuple[str, ...]] = ("image", "mask")

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        images, prompts = self.examples(run)
        new = boxes(len(images), images.shape[1:3], self.seed)
        pictures = {"image": signed(images), "mask": new[..., None].astype(np.float32)}
        samples = run.samples(
            len(images), self.seed, prompts=prompts, pictures=pictures, paste=self.paste, **self.settings
        )
        error = np.abs(samples.images.astype(np.float64) - images) / 255
        kept = error[~new]
        found = {
            "exact": float((kept == 0).all(axis=-1).mean()), "l1": float(kept.mean()), "new": float(error[new].mean()),
            "images": len(images),
        }  # fmt: skip
        squared = float(np.square(kept).mean())
        return found | ({"psnr": -10 * math.log10(squared)} if squared else {})


def boxes(count: int, size: tuple[int, int], seed: int) -> Bool[np.ndarray, "N H W"]:
    """A box in each image, of a quarter to three quarters of each side, anywhere in it."""
    rng = np.random.default_rng(derived_seed(seed, 0))
    found = np.zeros((count, *size), bool)
    for one in found:
        cut = []
        for side in size:
            length = int(rng.integers(max(1, side // 4), max(2, 3 * side // 4 + 1)))
            start = int(rng.integers(0, side - length + 1))
            cut.append(slice(start, start + length))
        one[tuple(cut)] = True
    return found


def build(
    pipeline: PipelineFactory,
    *,
    source: Mapping[str, Any] | None = None,
    count: Count = 200,
    seed: Natural = 0,
    settings: Mapping[str, Any] | None = None,
    told: bool = True,
    paste: bool = False,
) -> KeptPixels:
    """Of at most `count` images of `source`, or of the config's `data.eval`; see `KeptPixels`."""
    return KeptPixels(**asked_of_images(pipeline, source, count, seed, settings, told), paste=paste)
