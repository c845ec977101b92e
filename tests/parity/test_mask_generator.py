"""All masks of a photo: the same ones in the same order as the authors' generator finds, of one random model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from etils import epath
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.utils.amg import is_box_near_crop_edge

from tests.parity.oracle import read
from tests.parity.test_sam import SIDE, authors  # noqa: F401
from vit_jax.checkpoints.families import sam_authors
from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.source import nested
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.evaluators.mask_generator import MaskGenerator
from vit_jax.tasks.sam import SegmentAnything

MEAN, STD = (124.0, 116.0, 104.0), (58.395, 57.12, 57.375)  # whole levels, so that padding is exactly zero in both
rng = np.random.default_rng(0)
# Blocks of colour, so that there is something to be told apart.
PHOTO = np.kron(rng.integers(0, 256, (6, 9, 3)), np.ones((9, 9, 1))).astype(np.uint8)


def greedy(boxes, scores, idxs, iou_threshold):
    """What `torchvision.ops.batched_nms` does for boxes of one class, whose compiled code is not everywhere."""
    order, kept = torch.sort(scores, descending=True, stable=True).indices.tolist(), []
    for i in order:
        # Boxes without area overlap by 0 / 0, which is not too much.
        if not any(float(overlap(boxes[i], boxes[j])) > iou_threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.long)


def overlap(one, other):
    sides = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0)
    both = sides.prod()
    return both / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - both)


@pytest.fixture(autouse=True)
def patched(monkeypatch):
    """What a random model answers fills its crop, and would be left out as cut by its edge: within 0 pixels instead of
    20 some of it is kept."""
    theirs = "segment_anything.automatic_mask_generator"
    monkeypatch.setattr(f"{theirs}.batched_nms", greedy)
    monkeypatch.setattr(f"{theirs}.is_box_near_crop_edge", functools.partial(is_box_near_crop_edge, atol=0.0))
    monkeypatch.setattr("vit_jax.evaluators.mask_generator._NEAR_EDGE", 0)


@pytest.fixture(scope="module")
def both(authors):  # noqa: F811
    theirs, _ = authors
    theirs.pixel_mean.copy_(torch.tensor(MEAN).view(-1, 1, 1))
    with torch.no_grad():
        # Masks that are sure of themselves, and predictions above 0, below which the authors' thresholds are none.
        for head in theirs.mask_decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 30
            head.layers[-1].bias *= 30
        theirs.mask_decoder.iou_prediction_head.layers[-1].bias += 6
    ours = read(sam_authors, {name: x.numpy() for name, x in theirs.state_dict().items()})
    flat = dict(ours.params)
    constants = nested({name: flat.pop(name) for name in list(flat) if name.startswith("constants/")})
    preprocess = Preprocess((SIDE, SIDE), resize="pad", anchor="corner", interpolation="bilinear", mean=MEAN, std=STD)
    fields = build_fields({"image": {"name": "image"}}, Context(preprocess, ()))
    variables = jax.tree.map(jnp.asarray, {"params": nested(flat), "model_state": constants})
    return theirs, Loaded(epath.Path("x"), SegmentAnything(ours.model, {}, 1), variables, fields, {"labels": []})


@pytest.mark.parametrize(
    "asked",
    [
        {"points": [(50, 20)]},
        {"points": [(50, 20), (10, 45)], "labels": [1, 0]},
        {"box": (8, 5, 60, 40)},
        {"points": [(50, 20)], "box": (8, 5, 60, 40)},
    ],
    ids=["point", "points", "box", "both"],
)  # fmt: skip
def test_a_photo_that_is_no_square_goes_in_and_comes_out_as_the_authors_have_it(both, asked):
    theirs, loaded = both
    predictor = SamPredictor(theirs)
    predictor.set_image(PHOTO)
    found = loaded.prompted(PHOTO)(**asked)
    masks, iou, _ = predictor.predict(
        point_coords=np.array(asked["points"]) if "points" in asked else None,
        point_labels=np.array(asked.get("labels", [1])) if "points" in asked else None,
        box=np.array(asked["box"]) if "box" in asked else None,
        multimask_output=len(found.masks) == 3,
    )
    order = np.argsort(-iou, kind="stable")
    np.testing.assert_allclose(found.iou, iou[order], rtol=1e-4)
    assert (found.masks != masks[order]).sum() <= 3  # pixels whose logits are almost 0


@functools.cache
def levels(generate):
    """Thresholds that a part of the answers passes, in the widest gaps, so that rounding decides nothing."""
    every, found = generate(pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0), []
    for key in ("predicted_iou", "stability_score"):
        values = np.sort([each[key] for each in every])
        values = values[len(values) // 10 : len(values) // 2]
        widest = np.diff(values).argmax()
        found.append(float(values[widest : widest + 2].mean()))
    return tuple(found)


@pytest.mark.parametrize("least_area", [0, 40])
@pytest.mark.parametrize("layers", [0, 1])
def test_the_same_masks_in_the_same_order(both, layers, least_area):
    theirs, loaded = both

    def generate(**settings):
        plain = {
            "points_per_side": 6,
            "points_per_batch": 10,
            "crop_n_layers": layers,
            "crop_n_points_downscale_factor": 2,
        }
        return SamAutomaticMaskGenerator(theirs, **plain, **settings).generate(PHOTO)

    iou, stability = levels(generate)
    assert iou > 0 and stability > 0
    expected = generate(
        pred_iou_thresh=iou, stability_score_thresh=stability, box_nms_thresh=0.9, crop_nms_thresh=0.85,
        min_mask_region_area=least_area,
    )  # fmt: skip
    ours = MaskGenerator(6, 10, iou, stability, 1.0, 0.9, layers, 0.85, 512 / 1500, 2, least_area)
    found = ours(loaded.prompted, PHOTO)
    assert len(found) == len(expected) > 3
    if layers:
        assert len({each.crop for each in found}) > 1
    for got, wanted in zip(found, expected, strict=True):
        assert got.predicted_iou == pytest.approx(wanted["predicted_iou"], abs=1e-4)
        assert got.stability == pytest.approx(wanted["stability_score"], abs=1e-3)
        np.testing.assert_allclose(got.point, wanted["point_coords"][0], atol=1e-9)
        left, top, width, height = wanted["crop_box"]
        assert got.crop == (left, top, left + width, top + height)
        assert (got.mask != wanted["segmentation"]).sum() <= 2  # a pixel whose logit is almost 0
        assert abs(got.area - wanted["area"]) <= 2
