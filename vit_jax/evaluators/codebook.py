"""How much of its codebook a tokenizer uses on images that it was not trained on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Int

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory
from vit_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class Codebook:
    """`codes_used`, how many codes occur at all; `perplexity`, how many codes of equal shares would say as much; `bits`
    of entropy a token, with which the codes could be sent one by one; `live`, the share of the codes that occur.

    With `scales` the same of each map of tokens, as `codes_used_0`, ..., from coarse to fine.

    Args:
        pipeline: the images.
        vocab_size: K, codes of the codebook.
        scales: tokens of each map; () for one.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    vocab_size: int
    scales: tuple[int, ...]

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        indices = apply(batch, ("indices",))["indices"]
        if self.scales and sum(self.scales) != indices.shape[1]:
            raise UserError(
                f"An image has {indices.shape[1]} tokens, and scales={self.scales} are {sum(self.scales)}",
                "Give the tokens of each map",
            )
        return {"valid": batch["valid"], "indices": indices}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        counts = 0
        for part in run(self.pipeline):
            maps = np.split(part["indices"][part["valid"] > 0], np.cumsum(self.scales)[:-1], axis=1)
            counts = counts + np.stack([count_codes(each, self.vocab_size) for each in maps])
        found = code_use(counts.sum(axis=0))
        for number, each in enumerate(counts if self.scales else ()):
            found |= {f"{name}_{number}": value for name, value in code_use(each).items()}
        return found


def count_codes(indices: Int[np.ndarray, "*n"], vocab_size: int) -> Int[np.ndarray, " K"]:
    """How often each code occurs.

    Raises:
        UserError: for an index that is not one.
    """
    indices = np.asarray(indices).reshape(-1)
    if len(indices) and not 0 <= indices.min() <= indices.max() < vocab_size:
        raise UserError(
            f"There are indices from {indices.min()} to {indices.max()}, and {vocab_size} codes",
            "Set the evaluator's vocab_size to the tokenizer's",
        )
    return np.bincount(indices, minlength=vocab_size)


def code_use(counts: Int[np.ndarray, " K"]) -> dict[str, float]:
    """See `Codebook`; of counts over all images."""
    shares = counts[counts > 0] / counts.sum()
    bits = float(-(shares * np.log2(shares)).sum())
    used = len(shares)
    return {"codes_used": used, "perplexity": float(2**bits), "bits": bits, "live": used / len(counts)}


def build(
    pipeline: PipelineFactory,
    *,
    vocab_size: Count,
    scales: Sequence[Count] = (),
    source: Mapping[str, Any] | None = None,
) -> Codebook:
    """Of the images of `source`, or of the config's `data.eval`."""
    return Codebook(pipeline(source=source), vocab_size, tuple(scales))
