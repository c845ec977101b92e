"""Masks for the boxes of a detector, by COCO's average precision.

Kirillov et al., "Segment anything" (arXiv:2304.02643), section 7.4: a detector finds boxes, and a model of prompts
gives each the mask that it thinks best; its score stays the detector's.
"""

import contextlib
import dataclasses
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.checkpoints.prompted import to_photo
from vit_jax.data import rle
from vit_jax.data.fields import Fields
from vit_jax.data.fields.boxes import Boxes
from vit_jax.data.files import from_here, read_bytes
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.source import Source
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory
from vit_jax.nn.prompts import box_corners
from vit_jax.ranges import Count

_MOST_BYTES = 2**30
_FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
_FIELD = "detected"


class Detected:
    """A source of COCO with the boxes of a detector beside each image; the class of a box is its number."""

    def __init__(self, source: Source, rows: Sequence[Sequence[Mapping[str, Any]]]):
        self.source, self.rows, self.label_names = source, rows, source.label_names

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.source[index]
        boxes = [[*row["bbox"], k] for k, row in enumerate(self.rows[index])]
        return {"path": example["path"], "image": example["image"], _FIELD: np.float64(boxes).reshape(-1, 5)}


@dataclasses.dataclass(frozen=True)
class Instance:
    """`ap`, the mean average precision of masks over thresholds of IoU from .5 to .95, with those of .5 and .75 alone
    and of small, medium and large objects (below 32^2 and 96^2 pixels of the photo), as pycocotools computes them.

    Args:
        pipeline: over `Detected`.
        annotations: the file of COCO that holds the truth.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    annotations: str

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Any]:
        of_image = apply(batch, ("embedding", "prompt_size"))
        frame = of_image["prompt_size"][::-1] / jnp.float32(batch["image"].shape[2:0:-1])
        points, labels = box_corners(batch[_FIELD] * jnp.tile(frame, 2))
        prompts = {"embedding": of_image["embedding"], "points": points, "point_labels": labels}
        found = apply({**prompts, "index": batch["index"]}, ("mask_logits", "picked"))
        logits = jnp.take_along_axis(found["mask_logits"], found["picked"][..., None, None, None], axis=2)[:, :, 0]
        there = batch[f"{_FIELD}_valid"] & (batch["valid"] > 0)[:, None]
        return {"logits": logits, "there": there, "number": batch[f"{_FIELD}_class"], "index": batch["index"]}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        source, answers = self.pipeline.source, []
        for part in run(self.pipeline):
            names = ("index", "logits", "there", "number")
            for index, logits, there, numbers in zip(*(part[name] for name in names), strict=True):
                masks = self._at_photo(int(index), logits[there]) if there.any() else []
                for mask, number in zip(masks, numbers[there], strict=True):
                    row = source.rows[index][number]
                    own = {key: row[key] for key in ("image_id", "category_id", "score")}
                    answers.append(own | {"segmentation": rle.encode(mask)})
        if not answers:
            raise UserError("The detector has found no box in these images", "Give it the boxes of this set")
        return coco_figures(self.annotations, answers, source.source.image_ids)

    def _at_photo(self, index: int, logits: Float[np.ndarray, "n a b"]) -> list[np.ndarray]:
        example, placement = self.pipeline.original(index)
        shape = example["image"].shape[:2]
        rows, columns = to_photo(placement, shape, logits.shape[1:])
        return [rows @ each @ columns.T > 0 for each in logits.astype(np.float32)]


def coco_figures(annotations: str, answers: Sequence[dict[str, Any]], image_ids: Sequence[int]) -> dict[str, float]:
    """What COCO's own code says of masks; -1, where there are no objects of a size, is left out."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        truth = COCO(annotations)
        judged = COCOeval(truth, truth.loadRes([dict(answer) for answer in answers]), "segm")
        judged.params.imgIds = list(image_ids)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    found = dict(zip(_FIGURES, judged.stats[:6].tolist(), strict=True))
    return {name: value for name, value in found.items() if value >= 0}


def read_detections(path: str) -> list[dict[str, Any]]:
    """The rows of a detector's results, as COCO has them: a list of image_id, category_id, bbox and score.

    Raises:
        UserError: for a file that cannot be read or is of another form.
    """
    how = "Give a JSON list of {image_id, category_id, bbox: [x, y, width, height], score}"
    try:
        rows = json.loads(read_bytes(path, _MOST_BYTES))
    except OSError as error:
        raise UserError(f"{from_here(path)} could not be read: {error.strerror or error}", "Check the path") from None
    except (ValueError, RecursionError):
        raise UserError(f"{from_here(path)} is no JSON", how) from None
    for k, row in enumerate(rows if isinstance(rows, list) else [None]):
        good = isinstance(row, dict) and all(type(row.get(key)) is int for key in ("image_id", "category_id"))
        numbers = [row.get("score"), *box] if good and isinstance(box := row.get("bbox"), list) else []
        if len(numbers) != 5 or not all(type(x) in (int, float) and np.isfinite(x) for x in numbers):
            raise UserError(f"Row {k} of {from_here(path)} is no box of a detector", how)
    return rows


def build(pipeline: PipelineFactory, annotations: str, images: str, detections: str, most: Count = 100) -> Instance:
    """Evaluates on the images that a file of COCO lists.

    Args:
        annotations: that file; it holds the truth.
        images: folder of the images.
        detections: a detector's results, as COCO has them (JSON).
        most: boxes of an image that are asked, those of the highest scores: COCO judges 100.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise UserError("Average precision needs pycocotools, which is not installed", "pip install 'vit_jax[dense]'")
    plain = pipeline(source={"name": "coco", "annotations": annotations, "images": images, "empty": True})
    source = plain.source
    known = {number: index for index, number in enumerate(source.image_ids)}
    rows: list[list[dict[str, Any]]] = [[] for _ in known]
    for row in sorted(read_detections(detections), key=lambda row: -row["score"]):
        index = known.get(row["image_id"])
        if index is None:
            raise UserError(
                f"{from_here(detections)} has a box in the image {row['image_id']}, which {from_here(annotations)} does"
                " not list",
                "Give both of one set",
            )
        if len(rows[index]) < most:
            rows[index].append(row)
    fields = Fields({"image": plain.fields["image"], _FIELD: Boxes(most, most, "xywh", min_area=0.0)})
    return Instance(plain.over(Detected(source, rows), fields, None), annotations)
