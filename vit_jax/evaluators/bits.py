"""How many bits a generator of tokens needs for images that it did not learn: what it minimises, whatever it draws."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory


@dataclasses.dataclass(frozen=True)
class Bits:
    """`per_token`, `per_pixel` and `per_image`, means over all images, and `tokens` of an image.

    Where tokens are those of a tokenizer they are bits of its codes, and what it loses costs nothing: numbers of two
    tokenizers are not compared. Where each colour of a pixel is a token, `per_token` is what papers call bits per
    dimension.

    Args:
        pipeline: the images.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        found = apply(batch, ("token_losses", "token_weights"))
        weights = found["token_weights"] * (batch["valid"] > 0)[:, None]
        return {"nats": (found["token_losses"] * weights).sum(axis=1), "tokens": weights.sum(axis=1)}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        nats, tokens = 0.0, 0.0
        for part in run(self.pipeline):
            nats += float(part["nats"].sum(dtype=np.float64))
            tokens += float(part["tokens"].sum(dtype=np.float64))
        images, bits = len(self.pipeline.source), nats / math.log(2)
        height, width = self.pipeline.fields["image"].preprocess.image_size
        return {
            "per_token": bits / tokens,
            "per_pixel": bits / images / (height * width),
            "per_image": bits / images,
            "tokens": tokens / images,
        }


def build(pipeline: PipelineFactory, source: Mapping[str, Any] | None = None) -> Bits:
    """Of the images of `source`, or of the config's `data.eval`."""
    return Bits(pipeline(source=source))
