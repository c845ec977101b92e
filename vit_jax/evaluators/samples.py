"""A picture of what a generator draws, or of what a tokenizer gives back, again and again while it learns."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.data.drawing import image_png, mosaic
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.pictures import SAMPLES, Of, OfPictures, asked, some
from vit_jax.ranges import Count, Natural

_ENLARGED = 32  # pixels; a sheet of smaller images would show nothing


@dataclasses.dataclass(frozen=True)
class Sheet(OfPictures):
    """`images`, how many there are, and `spread`, the standard deviation of a pixel's values over them, of 255: next to
    nothing where all are alike.

    File: `grid.png`, while training too, see `vit_jax.training.kept`. Samples have the same seed at all steps, so that
    an image may be followed from step to step. Of reconstructions the original stands at the left.
    """

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        found = self.pictures(run)
        images, columns = found.made, None
        if found.original is not None:
            images, columns = np.stack([found.original, found.made], axis=1), 8
            images = images.reshape(-1, *images.shape[2:])
        draw = functools.partial(mosaic, images, columns, least=_ENLARGED)
        run.keep("grid.png", lambda: image_png(draw()), while_training=True)
        return {"images": len(found.made), "spread": float(found.made.astype(np.float32).std(axis=0).mean())}


def build(
    pipeline: PipelineFactory,
    source: Mapping[str, Any] | None = None,
    of: Of = SAMPLES,
    count: Count = 36,
    seed: Natural = 0,
    settings: Mapping[str, Any] | None = None,
) -> Sheet:
    """The first `count` samples, or reconstructions of so many images of `source`, or of the config's `data.eval`.

    Args:
        settings: of the task's `sampling`; the others as the paper has them.
    """
    given = asked(pipeline, source, of, count, seed, settings)
    return Sheet(**given | {"real": some(given["real"], count)})
