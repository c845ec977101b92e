"""Figures of clicks and boxes by hand, through the pipeline, whatever the batch and the devices."""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.answering import SIDE, answering
from vit_jax import UserError
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.evaluators.clicks import Clicks
from vit_jax.nn.prompts import BOTTOM_RIGHT, NOT_A_POINT, OFF, ON, PADDING, TOP_LEFT
from vit_jax.training.evaluation import Evaluation
from vit_jax.training.sharding import make_mesh

N, CLICKS = 5, 3
rng = np.random.default_rng(3)
IMAGES = rng.integers(0, 256, (N, 32, 32, 3), np.uint8)


def scene(seed):
    """A disc within a rectangle, and a triangle that reaches into it; in one of the scenes only the latter."""
    drawn = np.random.default_rng(seed)
    whole, part, other = np.zeros((3, 32, 32), np.uint8)
    left, top = drawn.integers(1, 6, 2).tolist()
    cv2.rectangle(whole, (left, top), (left + 17, top + 12), 1, -1)
    cv2.circle(part, (left + 8, top + 6), 4, 1, -1)
    cv2.fillPoly(other, [np.array([[4, 30], [28, 30], [14 + left, 9]])], 1)
    return np.stack([other] if seed == 2 else [whole, part, other])


MASKS = [scene(seed) for seed in range(N)]


@dataclasses.dataclass
class Source:
    label_names: tuple[str, ...] = ()

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"image": IMAGES[index], "masks": MASKS[index]}


def measured(batch_size=4, devices=1, **settings):
    loaded = answering()
    kinds = {"image": {"name": "image"}, "masks": {"name": "masks", "max_objects": 4, "mask_size": SIDE}}
    fields = build_fields(kinds, Context(Preprocess((32, 32)), ()))
    pipeline = EvalPipeline(Source(), None, batch_size, num_threads=0, fields=fields)
    evaluator = Clicks(pipeline, **{"clicks": CLICKS, **settings})
    mesh = make_mesh({}, jax.devices()[:devices])
    found = Evaluation({"x": evaluator}, loaded.task.outputs, fields.on_device, mesh).run(loaded.variables)
    return {name.removeprefix("x/"): value for name, value in found.items()}


@functools.cache
def asking():
    loaded = answering()

    @jax.jit
    def ask(image, points, labels, prior, has_prior):
        batch = {"image": image[None], "points": points[None, None], "point_labels": labels[None, None]}
        batch |= {"prior": prior[None, None], "has_prior": has_prior[None, None]}
        return loaded.task.outputs(loaded.variables, batch, frozenset({"mask_logits", "iou", "picked"}), None)

    def plain(image, points, labels, prior=None):
        slots = CLICKS + 1
        points = np.pad(np.float32(points), ((0, slots - len(points)), (0, 0)))
        labels = np.pad(np.int32(labels), (0, slots - len(labels)), constant_values=PADDING)
        blank = np.zeros((SIDE, SIDE), np.float32)
        pixels = Preprocess((32, 32)).normalize(image)
        found = ask(pixels, points, labels, blank if prior is None else prior, jnp.asarray(prior is not None))
        return [np.asarray(found[name])[0, 0] for name in ("mask_logits", "iou", "picked")]

    return plain


def middle(*regions):
    """The pixel deepest in one of the regions, the first of several: as the model is asked, and its row and column."""
    depths = [cv2.distanceTransform(np.pad(region.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
              for region in regions]  # fmt: skip
    depth = np.max(depths, axis=0)
    row, column = np.unravel_index(np.round(depth**2).argmax(), depth.shape)
    return [2 * (column + 0.5) - 0.5, 2 * (row + 0.5) - 0.5], (row, column)


def overlaps(logits, wanted):
    found = logits > 0
    return (found & wanted).sum((-2, -1)) / np.maximum((found | wanted).sum((-2, -1)), 1)


def boundary(found, wanted):
    kernel = np.ones((3, 3), np.uint8)
    inner = [cv2.erode(np.pad(m.astype(np.uint8), 1), kernel)[1:-1, 1:-1] > 0 for m in (found, wanted)]
    edges = [m & ~i for m, i in zip((found, wanted), inner, strict=True)]
    return overlaps(np.where(edges[0], 1.0, -1.0), edges[1])


@functools.cache
def expected():
    rows = []
    for image, masks in zip(IMAGES, MASKS, strict=True):
        for k, mask in enumerate(masks):
            wanted = mask[1::2, 1::2] > 0  # the nearest pixel, of two at the same distance the latter
            row = {"nested": k < 2 and len(masks) == 3}
            points, labels = [middle(wanted)[0], [0, 0]], [ON, NOT_A_POINT]
            logits, iou, picked = asking()(image, points, labels)
            real = overlaps(logits, wanted)
            row |= {"click_1": real[picked], "click_1_best": real[1:].max(), "click_1_single": real[0]}
            row |= {"said": iou[picked], "click_1_boundary": boundary(logits[picked] > 0, wanted)}
            assert picked > 0
            for number in range(2, CLICKS + 1):
                chosen = logits[picked] > 0
                point, place = middle(wanted & ~chosen, chosen & ~wanted)
                points, labels = [*points, point], [*labels, ON if wanted[place] else OFF]
                logits, iou, picked = asking()(image, points, labels, logits[picked])
                assert picked == 0
                row[f"click_{number}"] = overlaps(logits[0], wanted)
            row[f"click_{CLICKS}_boundary"] = boundary(logits[0] > 0, wanted)
            ys, xs = np.nonzero(wanted)
            corners = 2 * np.float32([[xs.min(), ys.min()], [xs.max() + 1, ys.max() + 1]]) - 0.5
            logits, iou, picked = asking()(image, corners, [TOP_LEFT, BOTTOM_RIGHT])
            real = overlaps(logits, wanted)
            row |= {"box": real[picked], "box_best": real[1:].max(), "box_single": real[0]}
            rows.append(row | {"box_boundary": boundary(logits[picked] > 0, wanted)})
    found = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "said"}
    for kind in ("click_1", "box"):
        for name in (kind, f"{kind}_best", f"{kind}_single"):
            for group, inside in (("nested", True), ("apart", False)):
                found[f"{group}_{name}"] = float(np.mean([row[name] for row in rows if row["nested"] == inside]))
    said, real = (np.array([row[name] for row in rows]) for name in ("said", "click_1"))
    groups = np.array_split(np.argsort(said), 10)
    found["iou_error"] = np.abs(said - real).mean()
    found["iou_calibration"] = sum(abs(said[g].sum() - real[g].sum()) for g in groups) / len(said)
    return found | {"masks": len(rows)}


def test_by_hand():
    found = measured()
    assert set(found) == set(expected())
    np.testing.assert_allclose([found[name] for name in expected()], list(expected().values()), rtol=1e-4)
    assert found["masks"] == 13 and found["nested"] == pytest.approx(8 / 13)


@pytest.mark.long
def test_the_same_on_eight_devices():
    assert measured(batch_size=8, devices=8) == measured()


@pytest.mark.long
def test_clicks_anywhere_in_what_is_wrong():
    found = measured(further="uniform")
    assert found["click_1"] == pytest.approx(expected()["click_1"], rel=1e-4)
    assert found["click_2"] != pytest.approx(expected()["click_2"], rel=1e-4)
    assert found == measured(further="uniform")


def test_without_masks_there_is_nothing_to_measure():
    class Run:
        def __call__(self, pipeline):
            yield {"valid": np.zeros((2, 3), bool)}

    with pytest.raises(UserError, match="There is no mask in the evaluation data"):
        Clicks(None).metrics(Run())
