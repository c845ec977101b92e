"""How well classes of pixels are found: mean intersection over union and accuracies, of one confusion matrix."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, Int64

from vit_jax.data.fields.dense import Dense, class_map
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, Apply, EvaluationRun, PipelineFactory
from vit_jax.evaluators.classification_files import confusion_picture, confusion_table, csv_bytes, share
from vit_jax.evaluators.photo_views import Plan, Views, of_photos, pipeline_of
from vit_jax.ranges import Count, Positive


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
        plan: by which views of a photo the classes of its own pixels are found; None for the model's resolution.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    plan: Plan | None = None

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
        if self.plan is not None:
            logits = apply(batch, ("mask_logits",))["mask_logits"].astype(jnp.float32)
            return {"logits": logits, "index": batch["index"], "valid": batch["valid"]}
        name, field = class_map(self.pipeline.fields)
        found, label = apply(batch, ("class_map",))["class_map"], batch[name]
        there = (label != int(field.ignore)) & (batch["valid"] > 0)[:, None, None]
        return {"counts": counted(label, found, there, field.count), "images": batch["valid"].sum(dtype=jnp.int32)}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        name, field = class_map(self.pipeline.fields)
        confusion, images = np.zeros((field.count, field.count), np.int64), 0
        for counts, of in self._at_the_model_s(run) if self.plan is None else self._of_photos(run, name, field):
            confusion += counts
            images += of
        offer(run, self.pipeline.source.label_names, confusion)
        return {**scores(confusion), "images": images}

    def _at_the_model_s(self, run: EvaluationRun) -> Iterator[tuple[Int[np.ndarray, "K K"], int]]:
        """Matrices, and of how many images each is."""
        for part in run(self.pipeline):
            yield part["counts"], int(part["images"])

    def _of_photos(self, run: EvaluationRun, name: str, field: Dense) -> Iterator[tuple[Int[np.ndarray, "K K"], int]]:
        """The same in the photos' own pixels."""
        views = Views(self.pipeline, self.plan)
        for index, shares in of_photos(views, run(pipeline_of(self.pipeline, views))):
            label = self.pipeline.original(index)[0][name].astype(np.int64)
            there = label != int(field.ignore)
            cells = label[there] * field.count + shares.argmax(axis=-1)[there]
            yield np.bincount(cells, minlength=field.count**2).reshape(field.count, field.count), 1


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


def build(
    pipeline: PipelineFactory,
    source: Mapping[str, Any] | None = None,
    at: Literal["model", "photo"] = "model",
    windows: bool = False,
    short_side: Count | None = None,
    flip: bool = False,
    scales: Sequence[Positive] = (1.0,),
) -> Segmentation:
    """Evaluates on `source`, or on the config's `data.eval`.

    Args:
        at: "model" counts pixels of the images that the model sees, "photo" those of the photos as they are, for which
            logits are interpolated bilinearly.
        windows: with "photo", whether the model sees parts of the photo instead of all of it, squashed; see
            `vit_jax.evaluators.photo_views.Plan`, like `short_side`, `flip` and `scales`.
        short_side: None for the shorter side of the model's images.

    Raises:
        UserError: for options of photos at the model's resolution, or scales without windows.
    """
    found = pipeline(source=source)
    if at == "model":
        if windows or flip or short_side or tuple(scales) != (1.0,):
            raise UserError(
                "Windows, scales and mirror images are for evaluation at the photo's resolution", "Set at='photo'"
            )
        return Segmentation(found)
    if not windows and (short_side or tuple(scales) != (1.0,)):
        raise UserError("A photo that is squashed to the model's size has no scale", "Set windows=True")
    preprocess = found.fields["image"].preprocess
    return Segmentation(found, Plan(windows, short_side or min(preprocess.image_size), tuple(scales), flip))
