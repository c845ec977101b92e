"""Accuracy over a labelled set, each example counted exactly once, and of each class."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, Apply, EvaluationRun, PipelineFactory
from vit_jax.evaluators.classification_files import class_table, confusion_picture, confusion_table
from vit_jax.naming import nearest
from vit_jax.nn.classification_loss import OBJECTIVES

_CONFUSION_UP_TO = 1000  # classes: 8 MB of counts


@dataclasses.dataclass(frozen=True)
class Classification:
    """Accuracies, cross-entropy in nats, and the number of examples.

    `accuracy` counts the examples whose class has the largest logit, `top5_accuracy` those whose class is among the
    five largest (with six classes or more, else of the largest K - 1), `balanced_accuracy` is the mean over the classes
    that have examples. `loss` is the cross-entropy that the model was trained with, without label smoothing, class
    weights and focal factor: softmax, or sigmoid summed over classes.

    Files: `per_class.csv`, `confusion.csv` and `confusion.png`, of the classes that are there or answered.

    Args:
        pipeline: the examples.
        objective: 'softmax' or 'sigmoid'; None for the model's.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    objective: str | None = None

    def judging(self, answers: Answers) -> "Classification":
        pipeline = self.pipeline.with_classes(answers.label_names)
        return dataclasses.replace(self, pipeline=pipeline, objective=self.objective or answers.objective)

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        logits, label = apply(batch, ("logits",))["logits"].astype(jnp.float32), batch["label"]
        if label.ndim != 1:
            raise UserError(
                "The evaluation data has several labels an image, of which accuracy needs one",
                "Name the evaluator 'multilabel' instead of 'classification'",
            )
        classes = jnp.arange(logits.shape[1])
        picked = jnp.take_along_axis(logits, label[:, None], axis=1, mode="fill")
        # Ties go to the class that comes first, as argmax has it; what is not a number is ahead of everything.
        behind = (logits < picked) | ((logits == picked) & (classes >= label[:, None]))
        if self.objective == "sigmoid":
            loss = jax.nn.softplus(logits).sum(axis=1) - picked[:, 0]
        else:
            loss = jax.nn.logsumexp(logits, axis=1) - picked[:, 0]
        return {
            "label": label,
            "predicted": logits.argmax(axis=1),
            "rank": (~behind).sum(axis=1),
            "loss": loss,
            "valid": batch["valid"],
            "classes": jnp.int32(logits.shape[1]),
        }

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        names = self.pipeline.source.label_names
        total, top, loss, confusion, examples, correct, predicted = 0, 0, 0.0, None, None, None, None
        for part in run(self.pipeline):
            kept = part["valid"] > 0
            label, answer, rank = (part[key][kept] for key in ("label", "predicted", "rank"))
            count = int(part["classes"])
            if len(label) and (label.min() < 0 or label.max() >= count):
                raise UserError(
                    "The evaluation data has labels that the model has no class for",
                    "Evaluate on the classes that it was trained on, or fine-tune it on these",
                )
            if examples is None:
                among = min(5, count - 1)
                examples, correct, predicted = (np.zeros(count, np.int64) for _ in range(3))
                confusion = np.zeros((count, count), np.int64) if count <= _CONFUSION_UP_TO else None
            total, top = total + len(label), top + int((rank < among).sum())
            loss += float(part["loss"][kept].sum(dtype=np.float64))
            examples += np.bincount(label, minlength=count)
            correct += np.bincount(label[rank == 0], minlength=count)
            predicted += np.bincount(answer, minlength=count)
            if confusion is not None:
                np.add.at(confusion, (label, answer), 1)
        self._offer(run, names, examples, correct, predicted, confusion)
        seen = examples > 0
        return {
            "accuracy": correct.sum() / total,
            **({f"top{among}_accuracy": top / total} if among > 1 else {}),
            "balanced_accuracy": (correct[seen] / examples[seen]).mean(),
            "loss": loss / total,
            "examples": total,
        }

    def _offer(
        self,
        run: EvaluationRun,
        names: tuple[str, ...],
        examples: Int[np.ndarray, " K"],
        correct: Int[np.ndarray, " K"],
        predicted: Int[np.ndarray, " K"],
        confusion: Int[np.ndarray, "K K"] | None,
    ) -> None:
        there = np.flatnonzero((examples > 0) | (predicted > 0))
        shown = [names[i] if i < len(names) else str(i) for i in there]
        counted = (examples[there], correct[there], predicted[there])
        run.keep("per_class.csv", functools.partial(class_table, shown, *counted))
        if confusion is not None:
            counts = confusion[np.ix_(there, there)]
            run.keep("confusion.csv", functools.partial(confusion_table, shown, counts))
            run.keep("confusion.png", functools.partial(confusion_picture, shown, counts))


def build(
    pipeline: PipelineFactory, source: Mapping[str, Any] | None = None, objective: str | None = None
) -> Classification:
    """Evaluates on `source`, or on the config's `data.eval`; `objective` is that of the model's training by default."""
    if objective is not None and objective not in OBJECTIVES:
        raise UserError(f"Unknown classification objective {objective!r}", nearest(objective, OBJECTIVES))
    return Classification(pipeline(source=source), objective)
