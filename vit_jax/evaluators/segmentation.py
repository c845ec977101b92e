"""How well classes of pixels are found: mean intersection over union and accuracies, of one confusion matrix."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, Int64

from vit_jax.data.fields.dense import Dense, class_map
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, Apply, EvaluationRun, PipelineFactory
from vit_jax.evaluators.classification_files import confusion_picture, confusion_table, csv_bytes, share


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """`miou`, `pixel_accuracy`, `mean_accuracy`, and how many `images` and `pixels` they are of.

    All come from whole numbers of pixels, so that they are the same on any number of devices. The IoU of a class is the
    share of pixels that are labelled and answered so, among those that are either; `miou` is the mean over the classes
    that occur in labels or answers, `mean_accuracy` that of each class's recall, over those that occur in labels.
    Pixels without a class count for nothing.

    Files: `per_class.csv`, `confusion.csv` and `confusion.png`, of the classes that are there or answered.

    Args:
        pipeline: the examples, with a class for each pixel at the model's resolution.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)

    def judging(self, answers: Answers) -> "Segmentation":
        names = self.pipeline.source.label_names
        if names and tuple(names) != tuple(answers.label_names):
            other = next((name for name in names if name not in answers.label_names), None)
            raise UserError(
                "The evaluation data has the model's classes in another order"
                if other is None
                else f"The model has no class {other!r} among its {len(answers.label_names)}",
                "Evaluate on data of the classes that it was trained on",
            )
        return self

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        name, field = class_map(self.pipeline.fields)
        found, label = apply(batch, ("class_map",))["class_map"], batch[name]
        there = (label != int(field.ignore)) & (batch["valid"] > 0)[:, None, None]
        return {"counts": counted(label, found, there, field.count), "images": batch["valid"].sum(dtype=jnp.int32)}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        field = self._field
        confusion, images = np.zeros((field.count, field.count), np.int64), 0
        for part in run(self.pipeline):
            confusion += part["counts"]
            images += int(part["images"])
        offer(run, self.pipeline.source.label_names, confusion)
        return {**scores(confusion), "images": images}

    @property
    def _field(self) -> Dense:
        return class_map(self.pipeline.fields)[1]


def counted(
    label: Int[Array, "b h w"], found: Int[Array, "b h w"], there: Array, count: int
) -> Int32[Array, "count count"]:
    """How many of the pixels that are `there` have which label (rows) and which answer (columns)."""
    cell = jnp.where(there, label * count + found, count * count)
    flat = jnp.zeros(count * count + 1, jnp.int32).at[cell.reshape(-1)].add(1)
    return flat[:-1].reshape(count, count)


def scores(confusion: Int64[np.ndarray, "K K"]) -> dict[str, float]:
    """The numbers of a matrix of pixels, labels in rows and answers in columns.

    Raises:
        UserError: no pixel has a class.
    """
    right, labelled, answered = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    total = int(labelled.sum())
    if not total:
        raise UserError(
            "No pixel of the evaluation data has a class",
            "Check the masks: all of it is what stands for no class (ignore)",
        )
    either = labelled + answered - right
    return {
        "miou": (right[either > 0] / either[either > 0]).mean(),
        "pixel_accuracy": right.sum() / total,
        "mean_accuracy": (right[labelled > 0] / labelled[labelled > 0]).mean(),
        "pixels": total,
    }


def offer(run: EvaluationRun, names: tuple[str, ...], confusion: Int64[np.ndarray, "K K"]) -> None:
    """Tables and a picture of the classes that occur."""
    right, labelled, answered = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    there = np.flatnonzero((labelled > 0) | (answered > 0))
    shown = [names[i] if i < len(names) else str(i) for i in there]
    columns = zip(shown, *(of[there].tolist() for of in (labelled, answered, right)), strict=True)
    rows = [[name, n, m, share(k, n + m - k), share(k, n), share(k, m)] for name, n, m, k in columns]
    header = ["class", "pixels", "answered", "iou", "accuracy", "precision"]
    run.keep("per_class.csv", functools.partial(csv_bytes, header, rows))
    counts = confusion[np.ix_(there, there)]
    run.keep("confusion.csv", functools.partial(confusion_table, shown, counts))
    run.keep("confusion.png", functools.partial(confusion_picture, shown, counts))


def build(pipeline: PipelineFactory, source: Mapping[str, Any] | None = None) -> Segmentation:
    """Evaluates on `source`, or on the config's `data.eval`."""
    return Segmentation(pipeline(source=source))
