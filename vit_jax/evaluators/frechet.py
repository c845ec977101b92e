"""The Frechet distance to real images on the features of a judge, beside what it is for images that are known."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import UInt8

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.seeds import derived_seed
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.frechet_distance import Moments, check_count, frechet_distance
from vit_jax.evaluators.judge import judge, read
from vit_jax.evaluators.pictures import Of, OfPictures, asked, some
from vit_jax.ranges import Count, Natural


@dataclasses.dataclass(frozen=True)
class Frechet(OfPictures):
    """`frechet(judge@sha)` of the images, and beside it `real`, `blurred` and `noise`: of as many other real images, of
    these blurred, and of noise. It is never called FID, which is of one network alone: see `vit_jax.evaluators.fid`.

    Numbers of two judges, or of two counts, are not compared: the fewer images, the larger the distance, which `real`
    shows. See `OfPictures` for the other arguments.

    Args:
        train: where the other real images come from.
        judge: path of a checkpoint that gives `features`.
    """

    train: EvalPipeline = dataclasses.field(hash=False)
    judge: str

    def check(self) -> None:
        fewest = min(self.number, len(self.real.source), len(self.train.source))
        check_count(fewest, judge(self.judge).width)

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        by = judge(self.judge)
        made = self.pictures(run).made
        real = Moments.of([by.pipeline(self.real)]).gaussian()
        others = some(self.train, len(made))
        found = {f"frechet({by.name})": by.images(made), "real": by.pipeline(others)}
        for name, kind in (("blurred", blurred), ("noise", noise)):
            found[name] = np.concatenate(list(by.stream(kind(part, at) for at, part in enumerate(read(others)))))
        distances = {name: frechet_distance(Moments.of([rows]).gaussian(), real) for name, rows in found.items()}
        return {**distances, "images": len(made)}


def blurred(images: UInt8[np.ndarray, "N H W 3"], part: int = 0) -> UInt8[np.ndarray, "N H W 3"]:
    """By a Gaussian of a deviation of a sixteenth of the short side."""
    del part
    sigma = min(images.shape[1:3]) / 16
    return np.round(scipy.ndimage.gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0))).astype(np.uint8)


def noise(images: UInt8[np.ndarray, "N H W 3"], part: int = 0) -> UInt8[np.ndarray, "N H W 3"]:
    """Bytes that are all equally likely, in the shape of images."""
    rng = np.random.default_rng(derived_seed(0, part))
    return rng.integers(0, 256, images.shape, dtype=np.uint8)


def build(
    pipeline: PipelineFactory,
    *,
    judge: str,
    train: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
    of: Of = "samples",
    count: Count = 2000,
    seed: Natural = 0,
    settings: Mapping[str, Any] | None = None,
) -> Frechet:
    """Against the real images of `source`, or of the config's `data.eval`; `train` is a source section too."""
    return Frechet(**asked(pipeline, source, of, count, seed, settings), train=pipeline(source=train), judge=judge)
