"""Guessing hidden tokens: how many are right, beside how many always answering the commonest one gets right."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """Over all hidden tokens of a set, which are the same for every model: the share guessed right, the cross-entropy
    in nats, and `commonest_accuracy`, what always guessing the token that is hidden most often would get: what a model
    that has learned the frequencies alone reaches. And with the next sentence the share of right answers.

    Args:
        pipeline: the examples.
        next_sentence: also ask whether the halves of a text belong together.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    next_sentence: bool = True

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        names = ["masked_logits", "masked_targets", "masked_chosen"]
        if self.next_sentence:
            names.append("masked_next_logits")
        found, there = apply(batch, names), batch["valid"] > 0
        logits, targets = found["masked_logits"].astype(jnp.float32), found["masked_targets"]
        chosen = (found["masked_chosen"] > 0) & there[:, None]
        # A hidden token that is not there counts nothing, even if its loss is not a number.
        losses = jnp.where(chosen, optax.softmax_cross_entropy_with_integer_labels(logits, targets), 0)
        kept = {
            "loss": losses.sum(),
            "right": (chosen & (logits.argmax(-1) == targets)).sum(),
            "seen": jnp.zeros(logits.shape[-1], jnp.int32).at[targets].add(chosen),
        }
        if self.next_sentence:
            answers, label = found["masked_next_logits"].astype(jnp.float32), batch["label"]
            losses = jnp.where(there, optax.softmax_cross_entropy_with_integer_labels(answers, label), 0)
            kept |= {"next_loss": losses.sum(), "next_right": (there & (answers.argmax(-1) == label)).sum()}
        return kept | {"examples": there.sum()}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        total: dict[str, Any] = {}
        for part in run(self.pipeline):
            total = {key: total.get(key, 0) + value.astype(float) for key, value in part.items()}
        tokens = total["seen"].sum()
        if not tokens:
            raise UserError("No token of the evaluation data was hidden", "Evaluate on texts with words in them")
        found = {
            "accuracy": total["right"] / tokens,
            "commonest_accuracy": total["seen"].max() / tokens,
            "loss": total["loss"] / tokens,
            "tokens": tokens,
        }
        if self.next_sentence:
            found["next_accuracy"] = total["next_right"] / total["examples"]
            found["next_loss"] = total["next_loss"] / total["examples"]
        return found | {"examples": total["examples"]}


def build(pipeline: PipelineFactory, source: Mapping[str, Any] | None = None, next_sentence: bool = True) -> MaskedLM:
    """Evaluates on `source`, or on the config's `data.eval`; `next_sentence` as the task learned it."""
    return MaskedLM(pipeline(source=source), next_sentence)
