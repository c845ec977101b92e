"""Accuracy over a labelled set, each example counted once, of each class, and whether the certainty is right."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from vit_jax.data.classes import class_positions
from vit_jax.data.order import class_counts
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, Apply, EvaluationRun, PipelineFactory
from vit_jax.evaluators.averaged_views import Views, views_of
from vit_jax.evaluators.bootstrap import with_intervals
from vit_jax.evaluators.calibration_error import reliability
from vit_jax.evaluators.classification_files import class_table, confusion_picture, confusion_table
from vit_jax.evaluators.shots import shot_accuracies, shot_groups
from vit_jax.naming import nearest
from vit_jax.nn.classification_loss import OBJECTIVES, probabilities
from vit_jax.ranges import Natural

_CONFUSION_UP_TO = 1000  # classes: 8 MB of counts


@dataclasses.dataclass(frozen=True)
class Classification:
    """Accuracies, cross-entropy in nats, calibration error, and the number of examples.

    `accuracy` counts the examples whose class has the largest logit, `top5_accuracy` those whose class is among the
    five largest (with six classes or more, else of the largest K - 1), `balanced_accuracy` is the mean over the classes
    that have examples. `loss` is the cross-entropy that the model was trained with, without label smoothing, class
    weights and focal factor: softmax, or sigmoid summed over classes. `ece` is the expected calibration error in 15
    bins, see `vit_jax.evaluators.calibration_error`. With `bootstrap` each has its 95% interval beside it, as
    `accuracy_low` and `accuracy_high`. With `train` there are `many_accuracy`, `medium_accuracy` and `few_accuracy` of
    the classes that have so many training examples, see `vit_jax.evaluators.shots`: the mean over a group's classes,
    for each group that has examples here.

    Files: `per_class.csv`, `confusion.csv` and `confusion.png`, of the classes that are there or answered;
    `calibration.csv` and the reliability diagram `calibration.png`.

    Args:
        pipeline: the examples.
        objective: 'softmax' or 'sigmoid'; None for the model's.
        bootstrap: resamples for the intervals; 0 for none.
        among: 'model' for all of the model's classes, or 'data' for those alone that the data has, as ImageNet-A and -R
            are measured.
        views: test-time augmentation, see `vit_jax.evaluators.averaged_views`; None for the image alone.
        seen: the views, once they are known.
        train: what was trained on, of which examples are counted; None for no groups of classes.
        counts: training examples of each of the model's classes, once they are known.
        answerable: places of the classes that may be answered, once they are known; None for all.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    objective: str | None = None
    bootstrap: int = 0
    among: str = "model"
    views: str | None = None
    seen: Views | None = None
    answerable: tuple[int, ...] | None = None
    train: EvalPipeline | None = dataclasses.field(default=None, hash=False)
    counts: tuple[int, ...] | None = None

    def judging(self, answers: Answers) -> "Classification":
        names = self.pipeline.source.label_names
        answerable = tuple(class_positions(names, answers.label_names)) if self.among == "data" else None
        pipeline, seen = self.pipeline.with_classes(answers.label_names), None
        if self.views is not None:
            pipeline, seen = views_of(self.views, pipeline)
        objective, counts = self.objective or answers.objective, None
        if self.train is not None:
            what = "Accuracy by the number of training examples needs their labels"
            found = class_counts(self.train.source, what, "Leave the evaluator's 'train' out")
            places = class_positions(self.train.source.label_names, answers.label_names)
            counts = tuple(np.bincount(places, found, len(answers.label_names)).astype(int).tolist())
        return dataclasses.replace(
            self, pipeline=pipeline, objective=objective, seen=seen, answerable=answerable, counts=counts
        )

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        label, objective = batch["label"], self.objective or "softmax"
        if label.ndim != 1:
            raise UserError(
                "The evaluation data has several labels an image, of which accuracy needs one",
                "Name the evaluator 'multilabel' instead of 'classification'",
            )
        if self.seen is not None:
            logits = self.seen.logits(apply, batch, objective)
        else:
            logits = apply(batch, ("logits",))["logits"].astype(jnp.float32)
        classes = jnp.arange(logits.shape[1])
        if self.answerable is not None:
            logits = jnp.where(jnp.isin(classes, jnp.array(self.answerable)), logits, -jnp.inf)
        picked = jnp.take_along_axis(logits, label[:, None], axis=1, mode="fill")
        # Ties go to the class that comes first, as argmax has it; what is not a number is ahead of everything.
        behind = (logits < picked) | ((logits == picked) & (classes >= label[:, None]))
        if objective == "sigmoid":
            loss = jax.nn.softplus(logits).sum(axis=1) - picked[:, 0]
        else:
            loss = jax.nn.logsumexp(logits, axis=1) - picked[:, 0]
        return {
            "label": label,
            "predicted": logits.argmax(axis=1),
            "rank": (~behind).sum(axis=1),
            "confidence": probabilities(logits, objective).max(axis=1),
            "loss": loss,
            "valid": batch["valid"],
            "classes": jnp.int32(logits.shape[1]),
        }

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        kept: dict[str, list[np.ndarray]] = {key: [] for key in ("label", "predicted", "rank", "confidence", "loss")}
        for part in run(self.pipeline):
            valid, count = part["valid"] > 0, int(part["classes"])
            for key, parts in kept.items():
                parts.append(part[key][valid])
            label = kept["label"][-1]
            if len(label) and (label.min() < 0 or label.max() >= count):
                raise UserError(
                    "The evaluation data has labels that the model has no class for",
                    "Evaluate on the classes that it was trained on, or fine-tune it on these",
                )
        label, predicted, rank, confidence, loss = (np.concatenate(parts) for parts in kept.values())
        right = rank == 0
        there = np.bincount(label, minlength=count) > 0
        groups = {} if self.counts is None else shot_groups(self.counts)
        groups = {name: group for name, group in groups.items() if (group & there).any()}
        among = min(5, (count if self.answerable is None else len(self.answerable)) - 1)

        def figures(some: Int[np.ndarray, " N"]) -> dict[str, float]:
            examples = np.bincount(label[some], minlength=count)
            correct = np.bincount(label[some], right[some], count)
            there = examples > 0
            return {
                "accuracy": right[some].mean(),
                **({f"top{among}_accuracy": (rank[some] < among).mean()} if among > 1 else {}),
                "balanced_accuracy": (correct[there] / examples[there]).mean(),
                **shot_accuracies(groups, examples, correct),
                "loss": loss[some].mean(dtype=np.float64),
                # A small difference of float32 shares: further digits tell how a program was compiled.
                "ece": round(float(reliability(confidence[some], right[some]).error), 7),
            }

        self._offer(run, count, label, predicted, right)
        answers = reliability(confidence, right)
        run.keep("calibration.csv", answers.table)
        run.keep("calibration.png", answers.picture)
        return {**with_intervals(figures, len(label), self.bootstrap), "examples": len(label)}

    def _offer(
        self,
        run: EvaluationRun,
        classes: int,
        label: Int[np.ndarray, " N"],
        answer: Int[np.ndarray, " N"],
        right: np.ndarray,
    ) -> None:
        names = self.pipeline.source.label_names
        examples, correct, predicted = (
            np.bincount(of, minlength=classes) for of in (label, label[right], answer)
        )  # fmt: skip
        there = np.flatnonzero((examples > 0) | (predicted > 0))
        shown = [names[i] if i < len(names) else str(i) for i in there]
        counted = (examples[there], correct[there], predicted[there])
        training = None if self.counts is None else np.array(self.counts)[there]
        run.keep("per_class.csv", functools.partial(class_table, shown, *counted, training))
        if classes <= _CONFUSION_UP_TO:
            counts = np.bincount(label * classes + answer, minlength=classes**2).reshape(classes, classes)
            counts = counts[np.ix_(there, there)]
            run.keep("confusion.csv", functools.partial(confusion_table, shown, counts))
            run.keep("confusion.png", functools.partial(confusion_picture, shown, counts))


def build(
    pipeline: PipelineFactory,
    source: Mapping[str, Any] | None = None,
    objective: str | None = None,
    bootstrap: Natural = 0,
    among: Literal["model", "data"] = "model",
    views: Literal["flip", "ten_crop"] | None = None,
    train: Mapping[str, Any] | None = None,
) -> Classification:
    """Evaluates on `source`, or on the config's `data.eval`; `objective` is that of the model's training by default,
    and `train` a source section such as `data.train`."""
    if objective is not None and objective not in OBJECTIVES:
        raise UserError(f"Unknown classification objective {objective!r}", nearest(objective, OBJECTIVES))
    counted = None if train is None else pipeline(source=train)
    return Classification(pipeline(source=source), objective, bootstrap, among, views, train=counted)
