"""The transform of segmentation: what it shows of an image, how it chooses, and its colours."""

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.placement import Placement
from vit_jax.data.transforms.dense import build, distorted

MOVES = {
    "image": lambda image, placement: placement.image(image),
    "segmentation": lambda labels, placement: placement.dense(labels, 255),
}


def example(height=60, width=80):
    """The left three quarters are of class 0, the rest of 1 and 2; a pixel's colour says its class."""
    labels = np.zeros((height, width), np.uint8)
    labels[:, 3 * width // 4 :], labels[: height // 2, 7 * width // 8 :] = 1, 2
    return {"image": np.repeat(60 * labels[..., None] + 40, 3, axis=2), "segmentation": labels}


def test_a_view_over_the_edge_is_filled_and_its_labels_are_of_no_class():
    place = Placement((-4, 0, 24, 16), (12, 8), fill=(1, 2, 3))
    image = np.full((16, 10, 3), 200, np.uint8)
    view, labels = place.image(image), place.dense(np.zeros((16, 10), np.uint8), 255)
    np.testing.assert_array_equal((view == 200).all(-1), labels == 0)
    assert (view[2:10, :5] == 200).all() and (labels == 0).sum() == 40
    assert (view[labels == 255] == (1, 2, 3)).all()
    flipped = Placement((-4, 0, 24, 16), (12, 8), flip=True, fill=(1, 2, 3)).image(image)
    np.testing.assert_array_equal(flipped, view[:, ::-1])


def test_scales_are_those_of_the_shorter_side():
    """An object of a tenth of the side is as large in the view as the drawn scale says."""
    view = build((30, 30), scale=(0.5, 2.0), most=1.0, base=60)
    sides = [view.draw(120, 200, np.random.default_rng(i)).box[2] for i in range(300)]
    # 30 of 60 pixels, scaled by 0.5 to 2: from the whole shorter side to a quarter of it.
    assert 30 <= min(sides) < 34 and 100 < max(sides) <= 120
    shown = [view.draw(120, 200, np.random.default_rng(i)) for i in range(300)]
    assert all(0 <= p.box[0] <= 120 - p.box[2] and 0 <= p.box[1] <= 200 - p.box[3] for p in shown)
    assert 100 < sum(p.flip for p in shown) < 200


def test_crops_are_looked_at_until_no_class_has_too_many_pixels():
    """A crop at random shows class 0 alone more often than not."""
    shares = {}
    for most in (1.0, 0.75):
        view, found = build((20, 20), scale=(1.0, 1.0), base=60, most=most, distort=False), []
        for seed in range(100):
            labels = view(example(), np.random.default_rng(seed), MOVES)["segmentation"]
            known = labels[labels != 255]
            found.append((np.bincount(known).max() <= 0.75 * len(known)) and len(np.unique(known)) > 1)
        shares[most] = np.mean(found)
    assert shares[1.0] < 0.4 and shares[0.75] > 0.75
    with pytest.raises(UserError, match="finds no field 'segmentation'"):
        build((20, 20))({"image": example()["image"]}, np.random.default_rng(0))
    build((20, 20), most=1.0)({"image": example()["image"]}, np.random.default_rng(0))


def test_image_and_classes_stay_together():
    view = build((24, 32), distort=False, flip=True, fill=(0, 0, 0), interpolation="area")
    for seed in range(40):
        found = view(example(), np.random.default_rng(seed), MOVES)
        assert found["image"].shape == (24, 32, 3) and found["segmentation"].shape == (24, 32)
        known = found["segmentation"] != 255
        wanted = np.where(known, 60 * found["segmentation"].astype(int) + 40, 0)
        # Where colours meet an interpolated pixel is of neither.
        assert (np.abs(found["image"][..., 0].astype(int) - wanted) <= 1).mean() > 0.85


def test_colours_are_distorted_as_drawn_and_nothing_else_is():
    image = np.random.default_rng(0).integers(60, 190, (6, 7, 3), np.uint8)
    off = np.array([0.9, 0.9, 0.9, 0.9])
    np.testing.assert_array_equal(distorted(image, off, [0.3, 0.7, 0.1, 0.9]), image)
    brighter = distorted(image, [0.1, 0.9, 0.9, 0.9], [1.0, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(brighter, image + 32)
    for order in (0.1, 0.6):  # before and after the colours
        weaker = distorted(image, [0.9, order, 0.9, 0.9], [0.5, 0.0, 0.5, 0.5])
        np.testing.assert_array_equal(weaker, (image * np.float32(0.5)).astype(np.uint8))
    grey = distorted(np.full((4, 4, 3), 99, np.uint8), [0.9, 0.9, 0.1, 0.1], [0.5, 0.5, 1.0, 0.0])
    np.testing.assert_array_equal(grey, 99)  # grey has neither saturation nor hue
    turned = distorted(image, [0.9, 0.9, 0.9, 0.1], [0.5, 0.5, 0.5, 0.0])
    assert (turned != image).any() and np.abs(turned.max(-1).astype(int) - image.max(-1)).max() <= 1


def test_another_field_of_classes_may_choose():
    view = build((20, 20), labels="parts", distort=False)
    moves = {"image": MOVES["image"], "parts": MOVES["segmentation"]}
    made = example()
    found = view({"image": made["image"], "parts": made["segmentation"]}, np.random.default_rng(0), moves)
    assert found["parts"].shape == (20, 20)
