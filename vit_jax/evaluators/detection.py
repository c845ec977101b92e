"""Average precision of boxes, by COCO's own code (pycocotools)."""

import contextlib
import dataclasses
import importlib.util
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory

_FOUND = ("boxes", "scores", "classes")


@dataclasses.dataclass(frozen=True)
class Detection:
    """`ap` over the overlaps .5, .55, ..., .95, `ap50` and `ap75` at one of them, means over the classes that occur;
    `recall` of at most 100 detections an image, over the overlaps; and the numbers of images and boxes.

    Boxes are compared in pixels of the view, which changes no overlap.

    Args:
        pipeline: images with boxes.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        found = apply(batch, _FOUND)
        wanted = {name: batch[name] for name in ("boxes", "boxes_class", "boxes_valid")}
        return {"valid": batch["valid"], **{f"found_{name}": found[name] for name in _FOUND}, **wanted}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        wanted: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        images = 0
        for part in run(self.pipeline):
            for i in np.flatnonzero(part["valid"] > 0):
                images += 1
                valid = part["boxes_valid"][i].astype(bool)
                wanted += _rows(images, part["boxes"][i][valid], part["boxes_class"][i][valid])
                found += _rows(images, *(part[f"found_{name}"][i] for name in ("boxes", "classes", "scores")))
        if not wanted:
            raise UserError(
                "No image of the evaluation data has a box", "Check the source and config.data.fields.boxes"
            )
        return {**average_precision(images, wanted, found), "images": images, "boxes": len(wanted)}


def average_precision(images: int, wanted: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, float]:
    """What COCO's evaluation says of boxes (see `Detection`).

    Args:
        images: how many there are, numbered from 1.
        wanted: of each box `image_id`, `category_id` and `bbox` (left, top, width, height).
        found: the same with a `score`.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    kinds = sorted({row["category_id"] for row in wanted})
    truth = COCO()
    annotations = [
        {**row, "id": i, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0} for i, row in enumerate(wanted, 1)
    ]
    truth.dataset = {
        "images": [{"id": i} for i in range(1, images + 1)],
        "categories": [{"id": kind} for kind in kinds],
        "annotations": annotations,
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        truth.createIndex()
        known = [row for row in found if row["category_id"] in kinds]
        if not known:
            return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0, "recall": 0.0}
        evaluation = COCOeval(truth, truth.loadRes(known), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = {"ap": 0, "ap50": 1, "ap75": 2, "recall": 8}
    return {name: float(evaluation.stats[place]) for name, place in names.items()}


def _rows(image: int, boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray | None = None) -> Iterator[dict]:
    for i, (box, kind) in enumerate(zip(boxes, classes, strict=True)):
        left, top, right, bottom = map(float, box)
        row = {"image_id": image, "category_id": int(kind), "bbox": [left, top, right - left, bottom - top]}
        yield row if scores is None else {**row, "score": float(scores[i])}


def build(pipeline: PipelineFactory, source: Mapping[str, Any] | None = None) -> Detection:
    """Evaluates on `source`, or on the config's `data.eval`.

    Raises:
        UserError: without pycocotools.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise UserError("Average precision needs pycocotools, which is not installed", "pip install 'vit_jax[dense]'")
    return Detection(pipeline(source=source))
