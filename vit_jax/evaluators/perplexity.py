"""How well a language model predicts texts that it did not learn: nats a token, perplexity, and bits per byte."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """The mean over all tokens that are predicted, each counted once.

    `loss` is in nats a token, `perplexity` its exponential. Both depend on how a tokenizer cuts the text;
    `bits_per_byte` of UTF-8 does not, and is there where the tokenizer knows its bytes. `tokens` says how many there
    were.

    Args:
        pipeline: the texts.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        out = apply(batch, ("token_losses", "token_weights", "token_bytes"))
        weights = out["token_weights"] * (batch["valid"] > 0)[:, None]
        return {
            "loss": (out["token_losses"] * weights).sum(axis=1),
            "tokens": weights.sum(axis=1),
            "bytes": (out["token_bytes"] * weights).sum(axis=1),
        }

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        sums = dict.fromkeys(("loss", "tokens", "bytes"), 0.0)
        for part in run(self.pipeline):
            for name in sums:
                sums[name] += float(part[name].sum(dtype=np.float64))
        loss = sums["loss"] / sums["tokens"]
        found = {"loss": loss, "perplexity": math.exp(loss), "tokens": int(sums["tokens"])}
        if sums["bytes"]:
            found["bits_per_byte"] = sums["loss"] / math.log(2) / sums["bytes"]
        return found


def build(pipeline: PipelineFactory, source: Mapping[str, Any] | None = None) -> Perplexity:
    """Evaluates on `source`, or on the config's `data.eval`."""
    return Perplexity(pipeline(source=source))
