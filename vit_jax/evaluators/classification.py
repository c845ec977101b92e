"""Accuracy over a labelled set, each example counted exactly once."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import PipelineFactory, Run


@dataclasses.dataclass(frozen=True)
class Classification:
    """Top-1 accuracy, softmax cross-entropy in nats, and the number of examples."""

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    needs: ClassVar[tuple[str, ...]] = ("logits",)

    def measure(self, outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> dict[str, Array]:
        logits, label, mask = outputs["logits"], batch["label"], batch["mask"]
        if label.ndim != 1:
            raise UserError(
                "The evaluation data has several labels an image", "Accuracy needs one: remove this evaluator"
            )
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1, mode="fill")[:, 0]
        return {
            "correct": ((logits.argmax(-1) == label) * mask).sum(),
            "loss": -jnp.where(mask > 0, picked, 0.0).sum(),
            "count": mask.sum(),
            "out_of_range": ((label < 0) | (label >= logits.shape[1])).sum(),
        }

    def metrics(self, run: Run) -> dict[str, float]:
        total: dict[str, float] = {}
        for part in run(self.pipeline):
            total = {k: total.get(k, 0.0) + float(v) for k, v in part.items()}
        if total["out_of_range"]:
            raise UserError(
                "The evaluation data has labels that the model has no class for",
                "Evaluate on the classes that it was trained on, or fine-tune it on these",
            )
        count = total["count"]
        return {"accuracy": total["correct"] / count, "loss": total["loss"] / count, "examples": count}


def build(pipeline: PipelineFactory, source: Mapping[str, Any] | None = None) -> Classification:
    """Evaluates on `source`, or on the config's `data.eval`."""
    return Classification(pipeline(source=source))
