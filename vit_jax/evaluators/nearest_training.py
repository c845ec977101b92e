"""Whether samples are copies: how near the nearest training image is, beside how near it is to real images unseen."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.feature_neighbours import nearest
from vit_jax.evaluators.judge import judge, read
from vit_jax.evaluators.pictures import SAMPLES, OfPictures, asked, some
from vit_jax.ranges import Count, Natural, Share

_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class NearestTraining(OfPictures):
    """`copies` is the share of the samples that are nearer to a training image than all but a `share` of as many real
    images that were not trained on: what does not copy has that share, or less where its samples are worse. `distance`
    and `real_distance` are the means of both; of pixels in root mean squares from 0 to 255.

    See `OfPictures` for the other arguments; `real` are the images that were not trained on.

    Args:
        train: the training images.
        judge: path of a checkpoint on whose `features` distances are measured; None for pixels.
        share: see above.
    """

    train: EvalPipeline = dataclasses.field(hash=False)
    judge: str | None
    share: float

    def check(self) -> None:
        if self.judge is not None:
            judge(self.judge)

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        made = self.pictures(run).made
        unseen = some(self.real, len(made))
        if self.judge is None:
            flat = [
                x.reshape(len(x), -1) for x in (made, *(np.concatenate(list(read(p))) for p in (unseen, self.train)))
            ]
            scale = flat[0].shape[1] ** -0.5
        else:
            by, scale = judge(self.judge), 1.0
            flat = [by.images(made), by.pipeline(unseen), by.pipeline(self.train)]
        near, real = (scale * nearest(queries, flat[2])[1] for queries in flat[:2])
        copies = (near < np.quantile(real, self.share)).mean()
        return {"copies": copies, "distance": near.mean(), "real_distance": real.mean()}


def build(
    pipeline: PipelineFactory,
    *,
    train: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
    judge: str | None = None,
    count: Count = 2000,
    seed: Natural = 0,
    settings: Mapping[str, Any] | None = None,
    share: Share = _SHARE,
) -> NearestTraining:
    """Of samples beside the images of `source`, or of the config's `data.eval`; `train` is a source section too."""
    pictures = asked(pipeline, source, SAMPLES, count, seed, settings)
    return NearestTraining(**pictures, train=pipeline(source=train), judge=judge, share=share)
