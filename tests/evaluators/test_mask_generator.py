"""All masks of a photo: what is asked, what is kept, and in which order."""

import dataclasses

import cv2
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.checkpoints.prompted import stability
from vit_jax.data import rle
from vit_jax.evaluators.mask_generator import (
    Found,
    MaskGenerator,
    crops,
    distinct,
    mask_box,
    point_grid,
    without_small,
)

rng = np.random.default_rng(0)
PHOTO = rng.integers(0, 256, (80, 120, 3), np.uint8)


class Discs:
    """A model by hand: to a click at (x, y) it answers with three discs around it, of which it thinks what it is told."""

    asked: list[int]

    def __init__(self, thinks):
        self._thinks, self.asked, self.seen = thinks, [], []

    def __call__(self, part):
        self.photo = part
        self.seen.append(part)
        return self

    def in_frame(self, xy):
        return np.float32(xy)

    def predict(self, points, labels):
        assert (labels == [1, 4]).all() and len(points) == len(labels)
        self.asked.append(len(points))
        logits = np.zeros((len(points), 4, 1, 3), np.float32)  # not masks yet: centre and radius
        for i, (x, y) in enumerate(points[:, 0]):
            for k in range(4):
                logits[i, k, 0] = x, y, (100, 9, 14, 19)[k]
        iou = np.array([[1.0, *self._thinks(x, y)] for x, y in points[:, 0]], np.float32)
        return logits, iou, np.zeros(len(points), np.int32)

    def at_photo(self, logits):
        rows, columns = np.indices(self.photo.shape[:2])
        ((x, y, radius),) = logits[:, 0]
        return np.float32(radius - np.hypot(columns - x, rows - y))[None]


def test_what_is_sure_and_stable_is_kept_best_first_and_once():
    model = Discs(lambda x, y: (0.9 + 0.0001 * x, 0.95 - 0.0001 * y, 0.5))
    found = MaskGenerator(points_per_side=4, points_per_batch=5, least_stability=0.6, most_overlap=0.05)(model, PHOTO)
    assert model.asked == [5, 5, 5, 5] and len(model.seen) == 1  # sixteen clicks, the last batch filled up
    scores = [each.predicted_iou for each in found]
    assert scores == sorted(scores, reverse=True)
    # The second disc is thought best; where those touch, what is left are the first ones.
    assert found[0].area == pytest.approx(np.pi * 14**2, rel=0.1) and found[0].point == (15.0, 10.0)
    assert min(scores) > 0.88 and {each.crop for each in found} == {(0, 0, 120, 80)}
    for each in found:
        assert each.area == each.mask.sum() and each.box == mask_box(each.mask)
        x, y = each.point
        assert each.mask[int(y), int(x)]
        high, low = (((np.hypot(*(np.indices((80, 120))[::-1] - np.array([x, y])[:, None, None]))) < r) for r in
                     ((13, 15) if each.area > 400 else (8, 10)))  # fmt: skip
        assert each.stability == pytest.approx(high.sum() / low.sum(), abs=0.02)
    boxes = np.array([[b[0], b[1], b[2] - 1, b[3] - 1] for b in (each.box for each in found)])
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            sides = np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)
            both = sides.prod()
            assert both / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both) <= 0.05
    assert not MaskGenerator(points_per_side=4, least_stability=0.99)(model, PHOTO)
    assert not MaskGenerator(points_per_side=4, least_iou=1.0)(model, PHOTO)


def test_parts_of_the_photo_are_seen_larger_and_what_their_edges_cut_is_left_to_others():
    model = Discs(lambda x, y: (0.9, 0.0, 0.0))
    settings = MaskGenerator(points_per_side=8, least_stability=0.5, crop_layers=1, crop_points_divisor=2)
    found = settings(model, PHOTO)
    parts = [box for box, layer in crops((80, 120), 1, 512 / 1500) if layer]
    assert [part.shape[:2] for part in model.seen[1:]] == [(y1 - y0, x1 - x0) for x0, y0, x1, y1 in parts]
    np.testing.assert_array_equal(model.seen[2], PHOTO[parts[1][1] : parts[1][3], parts[1][0] : parts[1][2]])
    of_parts = [each for each in found if each.crop in parts]
    assert of_parts and len(of_parts) < len(found)
    for each in of_parts:
        left, top, right, bottom = each.crop
        for end, own, whole in zip(each.box, each.crop, (0, 0, 120, 80), strict=True):
            assert abs(end - own) > 19 or abs(end - whole) <= 21
        x, y = each.point
        assert left <= x <= right and top <= y <= bottom and each.mask[int(y), int(x)]
    assert found.index(of_parts[0]) == 0  # of the same thing the smaller part's is kept


def test_small_islands_and_holes():
    mask = np.zeros((30, 30), bool)
    mask[5:20, 5:20] = True
    mask[9:11, 9:11] = False  # a hole of 4
    mask[25, 25:28] = True  # an island of 3
    filled, changed = without_small(mask, 5, holes=True)
    assert changed and filled[9:11, 9:11].all() and filled[25, 26]
    cleared, changed = without_small(mask, 5, holes=False)
    assert changed and not cleared[25].any() and not cleared[9, 9]
    for holes in (True, False):
        same, changed = without_small(mask, 3, holes=holes)
        assert not changed and (same == mask).all()
    largest, _ = without_small(mask, 1000, holes=False)
    assert largest[6, 6] and not largest[25].any()


def test_what_was_tidied_comes_after_what_was_not():
    model = Discs(lambda x, y: (0.9, 0.0, 0.0))
    plain = MaskGenerator(points_per_side=3, least_stability=0.5)
    holed = [
        dataclasses.replace(each, rle=rle.encode(each.mask & (rng.random((80, 120)) > 0.02)))
        for each in plain(model, PHOTO)
    ]
    kept = MaskGenerator(least_area=6)._tidied([*holed[:2], *plain(model, PHOTO)[4:]])
    assert kept[-2].area == kept[-2].mask.sum() and len(kept) == 7
    assert cv2.connectedComponents((~kept[-1].mask).astype(np.uint8))[0] == 2  # one piece outside, and no hole


def test_boxes_and_grids_by_hand():
    np.testing.assert_allclose(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    assert mask_box(np.zeros((4, 4), bool)) == (0, 0, 0, 0)
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [0, 0, 0, 0]])
    assert distinct(boxes, [0.5, 0.9, 0.1, 0.2], 0.7).tolist() == [1, 3, 2]
    assert distinct(boxes, [0.5, 0.9, 0.1, 0.2], 0.8).tolist() == [1, 0, 3, 2]  # an overlap of just as much stays
    assert distinct(boxes, [1, 1, 1, 1], 0.7).tolist() == [0, 2, 3]
    assert [box for box, _ in crops((100, 200), 0, 0.3)] == [(0, 0, 200, 100)]
    one = Found(rle.encode(np.ones((2, 3), bool)), 6, (0, 0, 3, 2), 0.91234, 1.0, (1.5, 1.0), (0, 0, 3, 2))
    assert one.record() == {
        "segmentation": {"size": [2, 3], "counts": "06"}, "area": 6, "bbox": [0, 0, 3, 2], "predicted_iou": 0.9123,
        "stability_score": 1.0, "point_coords": [[1.5, 1.0]], "crop_box": [0, 0, 3, 2],
    }  # fmt: skip
    assert stability(np.full((1, 2, 2), 5, np.float32))[0] == 1


def test_more_layers_than_clicks():
    with pytest.raises(UserError, match="Of 4 clicks in a row none is left in layer 3"):
        MaskGenerator(points_per_side=4, crop_layers=3, crop_points_divisor=2)
