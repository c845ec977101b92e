"""Images with any number of labels: average precision, and F1 at a threshold."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, Apply, EvaluationRun, PipelineFactory
from vit_jax.evaluators.bootstrap import with_intervals
from vit_jax.evaluators.classification_files import csv_bytes, share
from vit_jax.naming import nearest
from vit_jax.nn.classification_loss import OBJECTIVES, classification_losses, probabilities
from vit_jax.ranges import Natural, Share

_MOST_SCORES = 10**9  # on the host, of four bytes each and one for the label


@dataclasses.dataclass(frozen=True)
class MultiLabel:
    """Figures of scikit-learn's definitions.

    `map` is the mean over the classes with examples of the average precision: the precision at each score that an
    example of the class has, averaged over these examples (`average_precision_score`). With the answers whose
    probability is at least `threshold`, `f1` is the mean over the same classes of F1, `f1_micro` that of all answers
    together, with its `precision` and `recall`; what is 0 of 0 counts as 0. `accuracy` is the share of the labelled
    images whose most likely class is one of their labels. `loss` is as in training, without smoothing, weights and
    focal factor.

    With `bootstrap` each has its 95% interval beside it, see `vit_jax.evaluators.bootstrap`.

    File: `per_class.csv`.

    Args:
        pipeline: examples whose label is multi-hot [B, K], or an index.
        threshold: of the probability.
        objective: 'softmax' or 'sigmoid'; None for the model's.
        bootstrap: resamples for the intervals; 0 for none.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    threshold: float = 0.5
    objective: str | None = None
    bootstrap: int = 0

    def judging(self, answers: Answers) -> "MultiLabel":
        pipeline = self.pipeline.with_classes(answers.label_names)
        count = len(pipeline.source) * len(answers.label_names)
        if count > _MOST_SCORES:
            raise UserError(
                f"{len(pipeline.source)} examples of {len(answers.label_names)} classes are {count:,} scores",
                f"Evaluate on fewer: up to {_MOST_SCORES:,} are held in memory",
            )
        return dataclasses.replace(self, pipeline=pipeline, objective=self.objective or answers.objective)

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        logits, label = apply(batch, ("logits",))["logits"].astype(jnp.float32), batch["label"]
        label = jax.nn.one_hot(label, logits.shape[1]) if label.ndim == 1 else label.astype(jnp.float32)
        if label.shape != logits.shape:
            raise UserError(
                f"The evaluation data has {label.shape[1]} classes, and the model {logits.shape[1]}",
                "Evaluate on the classes that it was trained on, or fine-tune it on these",
            )
        objective = self.objective or "softmax"
        # As the loss of training has it: n labels share a softmax.
        total = label.sum(axis=1, keepdims=True)
        targets = label / jnp.where(total > 0, total, 1) if objective == "softmax" else label
        return {
            "scores": logits,
            "answers": probabilities(logits, objective) >= self.threshold,
            "labels": label > 0,
            "loss": classification_losses(logits, targets, objective),
            "valid": batch["valid"],
        }

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        kept: dict[str, list[np.ndarray]] = {"scores": [], "answers": [], "labels": [], "loss": []}
        for part in run(self.pipeline):
            for key, parts in kept.items():
                parts.append(part[key][part["valid"] > 0])
        scores, answers, labels, loss = (np.concatenate(parts) for parts in kept.values())
        positives, answered, right = (found.sum(axis=0) for found in (labels, answers, labels & answers))
        if not positives.any():
            raise UserError("No image of the evaluation data has a label", "Check its manifest and label_names")
        every, precisions = np.arange(len(labels)), functools.cache(lambda: _average_precisions(labels, scores))
        run.keep("per_class.csv", lambda: self._table(positives, answered, right, precisions()))
        ranked = np.take_along_axis(labels, scores.argmax(axis=1)[:, None], axis=1)[:, 0]

        def figures(some: Int[np.ndarray, " N"]) -> dict[str, float]:
            label, answer = labels[some], answers[some]
            positives, answered, right = (found.sum(axis=0) for found in (label, answer, label & answer))
            there = positives > 0
            of_classes = precisions() if np.array_equal(some, every) else _average_precisions(label, scores[some])
            f1 = 2 * right / np.maximum(positives + answered, 1)
            return {
                "map": of_classes[there].mean(),
                "f1": f1[there].mean(),
                "f1_micro": 2 * right.sum() / (positives.sum() + answered.sum()),
                "precision": right.sum() / max(answered.sum(), 1),
                "recall": right.sum() / positives.sum(),
                "accuracy": ranked[some][label.any(axis=1)].mean(),
                "loss": loss[some].mean(dtype=np.float64),
            }

        return {**with_intervals(figures, len(labels), self.bootstrap), "examples": len(labels)}

    def _table(self, positives: np.ndarray, answered: np.ndarray, right: np.ndarray, precisions: np.ndarray) -> bytes:
        columns = (x.tolist() for x in (positives, answered, right, precisions))
        rows = (
            [name, n, f"{ap:.6f}" if n else None, given, share(hit, given), share(hit, n), share(2 * hit, n + given)]
            for name, n, given, hit, ap in zip(self.pipeline.source.label_names, *columns, strict=True)
        )
        return csv_bytes(["class", "examples", "average precision", "answers", "precision", "recall", "f1"], rows)


def _average_precisions(labels: Bool[np.ndarray, "N K"], scores: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " K"]:
    return np.array([average_precision(labels[:, k], scores[:, k]) for k in range(labels.shape[1])])


def average_precision(labels: Bool[np.ndarray, " N"], scores: Float[np.ndarray, " N"]) -> float:
    """The area under the steps of precision against recall; 0 without a positive. Equal scores count as one step.

    Not a number where a score is none.
    """
    if np.isnan(scores).any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    found = np.cumsum(labels[order])[ends]
    return float((np.diff(found, prepend=0) * found / (ends + 1)).sum() / max(found[-1], 1))


def build(
    pipeline: PipelineFactory,
    source: Mapping[str, Any] | None = None,
    threshold: Share = 0.5,
    objective: str | None = None,
    bootstrap: Natural = 0,
) -> MultiLabel:
    """Evaluates on `source`, or on the config's `data.eval`; `objective` is that of the model's training by default."""
    if objective is not None and objective not in OBJECTIVES:
        raise UserError(f"Unknown classification objective {objective!r}", nearest(objective, OBJECTIVES))
    return MultiLabel(pipeline(source=source), threshold, objective, bootstrap)
