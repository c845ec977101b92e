"""What is counted of answers to names, against loops; and what cannot be asked by name."""

import jax
import numpy as np
import pytest

from tests.tasks import test_sam, test_sam_text
from vit_jax import UserError
from vit_jax.evaluators.named import Named
from vit_jax.nn.prompts import NOT_A_POINT, PADDING
from vit_jax.training.experiment import build_experiment

rng = np.random.default_rng(0)
COUNT, SIDE = 3, 8


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def test_answers_are_counted_by_what_is_named():
    masks = rng.random((3, 4, SIDE, SIDE)) < 0.3
    kinds = np.array([[1, 2, 1, 3], [3, 3, 0, 0], [2, 1, 0, 0]], np.int32)
    there = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]], bool)  # a slot of the kind 3 holds nothing
    batch = {
        "image": np.zeros((3, 2, 2, 3), np.float32), "index": np.arange(3), "masks": masks.astype(np.uint8),
        "masks_class": kinds, "masks_valid": there, "valid": np.float32([1, 1, 0]), "masks_dropped": np.int32([0, 2, 9]),
    }  # fmt: skip
    wanted = np.zeros((3, COUNT, SIDE, SIDE), bool)
    for i, j in zip(*np.nonzero(there), strict=True):
        wanted[i, kinds[i, j] - 1] |= masks[i, j]
    # Half of what is named, and noise.
    answers = rng.random((3, 2 * COUNT, SIDE, SIDE)) < np.where(np.concatenate([wanted, wanted], 1), 0.8, 0.2)
    logits = np.full((3, 2 * COUNT, 4, SIDE, SIDE), -9, np.float32)
    picked = rng.integers(0, 4, (3, 2 * COUNT))
    for i, j in np.ndindex(picked.shape):
        logits[i, j, picked[i, j]] = np.where(answers[i, j], 1, -1)
    crops = rng.normal(size=(3, COUNT, 5)).astype(np.float32)
    said = rng.normal(size=(COUNT, 5)).astype(np.float32)

    def apply(given, names):
        if "text" in given:
            return {"text_embedding": said}
        if "image" in given:
            np.testing.assert_array_equal(given["masks"], wanted)
            return {"crop_embedding": crops, "embedding": np.zeros((3, 2, 2, 1))}
        np.testing.assert_array_equal(given["meant"], np.concatenate([np.stack([said] * 3), crops], 1))
        assert given["has_meant"].all() and (np.asarray(given["point_labels"]) == [PADDING, NOT_A_POINT]).all()
        return {"mask_logits": logits, "picked": picked}

    evaluator = Named(None, {"text": np.zeros((COUNT, 4), np.int32)})
    found = evaluator.metrics(lambda pipeline: [jax.device_get(evaluator.measure(apply, batch))])
    asked = [(0, 0), (0, 1), (1, 2)]
    expected = {
        "named": np.mean([iou(answers[i, k], wanted[i, k]) for i, k in asked]),
        "crop": np.mean([iou(answers[i, COUNT + k], wanted[i, k]) for i, k in asked]),
        "other": np.mean([iou(answers[i, j], wanted[i, k]) for i, k in asked for j in range(COUNT) if j != k]),
        "told_apart": np.mean(
            [iou(answers[0, k], wanted[0, k]) > iou(answers[0, k], wanted[0, 1 - k]) for k in (0, 1)]
        ),
        "asked": 3,
        "left_out": 2,
    }
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "'masks' does not say of which of 3 classes a mask is. Set config.data.fields.masks.classes=3"),
        ({"template": "a"}, "The template 'a' has no place for a name"),
    ],
)
def test_what_cannot_be_asked_by_name(changes, sentence):
    values = test_sam_text.config()
    fields = dict(values["data"]["fields"])
    if changes:
        fields["masks"] = {**fields["masks"], "classes": 3}
    evals = {"named": {"name": "named", **changes}}
    with pytest.raises(UserError, match=sentence):
        build_experiment(values | {"data": {**values["data"], "fields": fields}, "evals": evals})


def test_a_run_of_points_alone_cannot_be_asked():
    values = test_sam.config() | {"evals": {"named": {"name": "named"}}}
    fields = {name: dict(each) for name, each in values["data"]["fields"].items()}
    fields["masks"]["classes"] = 3
    with pytest.raises(UserError, match="The evaluation data reads no texts"):
        build_experiment(values | {"data": {**values["data"], "fields": fields}})
