"""Masks for a detector's boxes, judged by COCO's own code."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data import rle
from vit_jax.data.drawing import image_png
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import coco
from vit_jax.evaluators.instance import build, read_detections
from vit_jax.training.evaluation import Evaluation
from vit_jax.training.sharding import make_mesh

pytest.importorskip("pycocotools")

# Image, category and box (left, top, width, height) of each object: photos of 80x40, seen at 32x16 in a frame of 32.
OBJECTS = [(11, 3, [5, 5, 30, 20]), (11, 7, [40, 10, 30, 25]), (12, 3, [10, 0, 40, 40])]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "images").mkdir()
    images = [{"id": number, "file_name": f"{number}.png", "width": 80, "height": 40} for number in (11, 12, 13)]
    for each in images:
        (tmp_path / "images" / each["file_name"]).write_bytes(image_png(np.full((40, 80, 3), 90, np.uint8)))
    rows = []
    for k, (image, category, box) in enumerate(OBJECTS, 1):
        mask = np.zeros((40, 80), bool)
        mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
        rows.append({"id": k, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0,
                     "area": int(mask.sum()), "segmentation": rle.encode(mask)})  # fmt: skip
    said = {"images": images, "annotations": rows, "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}]}
    (tmp_path / "truth.json").write_text(json.dumps(said))
    return tmp_path


def measured(files, boxes, devices=1, **settings):
    rows = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in boxes]
    (files / "boxes.json").write_text(json.dumps(rows))
    preprocess = Preprocess((32, 32), resize="pad", anchor="corner")
    fields = build_fields({"image": {"name": "image"}}, Context(preprocess, ()))

    def pipeline(source):
        given = {key: value for key, value in source.items() if key != "name"}
        return EvalPipeline(coco.build(**given), None, 8, num_threads=0, fields=fields)

    def outputs(variables, batch, names, rng):
        """A mask of everything in the box, as fine as the frame has pixels twice."""
        given = {"embedding": jnp.zeros((8, 1)), "prompt_size": jnp.float32([32, 32])}
        if "points" in batch:
            axis = (jnp.arange(64) + 0.5) / 2
            first, last = batch["points"][:, :, 0], batch["points"][:, :, 1]
            inside = [(axis > first[..., k, None]) & (axis < last[..., k, None]) for k in (0, 1)]
            logits = jnp.where(inside[1][..., :, None] & inside[0][..., None, :], 5.0, -5.0)
            # Only the answer that is picked is right.
            given["mask_logits"] = jnp.stack([-logits, -logits, logits, -logits], axis=2)
            given["picked"] = jnp.full(logits.shape[:2], 2)
        return {name: given[name] for name in names}

    evaluator = build(pipeline, str(files / "truth.json"), str(files / "images"), str(files / "boxes.json"), **settings)
    mesh = make_mesh({}, jax.devices()[:devices])
    return Evaluation({"x": evaluator}, outputs, fields.on_device, mesh).run({})


RIGHT = [(image, category, box, 0.9 - 0.1 * k) for k, (image, category, box) in enumerate(OBJECTS)]


def test_right_boxes_have_right_masks(files):
    found = measured(files, RIGHT)
    assert found["x/ap"] == pytest.approx(1, abs=0.05) and found["x/ap50"] == 1
    assert set(found) == {"x/ap", "x/ap50", "x/ap75", "x/ap_small", "x/ap_medium"}  # none is large


def test_what_a_detector_gets_wrong_counts(files):
    wrong = [(11, 7, RIGHT[0][2], 0.95), *RIGHT]  # a class that is not there comes first: precision 1/2 for the second
    assert measured(files, wrong)["x/ap50"] == pytest.approx((1 + 0.5) / 2)
    assert measured(files, RIGHT[:1])["x/ap50"] == pytest.approx(0.5 * 51 / 101, abs=0.01)  # of half of its class
    # Of more boxes than are asked those with the best scores are.
    assert measured(files, wrong, most=1)["x/ap50"] < 0.6


def test_lists_that_are_none(files):
    with pytest.raises(UserError, match="found no box in these images"):
        measured(files, [])
    with pytest.raises(UserError, match=r"boxes.json has a box in the image 99, which .*truth.json does not list"):
        measured(files, [(99, 3, [1, 1, 2, 2], 0.5)])
    for text, said in (
        ("{", "is no JSON"), ("{}", "Row 0 of .* is no box of a detector"), ("[1]", "Row 0"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3], "score": 1}]', "Row 0"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, NaN], "score": 1}]', "Row 0"),
        ('[{"image_id": "1", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "Row 0"),
    ):  # fmt: skip
        (files / "bad.json").write_text(text)
        with pytest.raises(UserError, match=said):
            read_detections(str(files / "bad.json"))
    with pytest.raises(UserError, match="could not be read"):
        read_detections(str(files / "none.json"))
