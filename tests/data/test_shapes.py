"""Made-up scenes: every pixel known, the same for the same seed and index, with wholes and parts."""

import numpy as np
import pytest

from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.scene import Part, Scene, filled
from vit_jax.data.sources import shapes
from vit_jax.errors import UserError

SOURCE = shapes.build(12, 64, seed=3)
NAMES = SOURCE.label_names


def test_a_scene_is_a_function_of_seed_and_index():
    again, other = shapes.build(5, 64, seed=3), shapes.build(12, 64, seed=4)
    for key in ("image", "segmentation", "boxes"):
        np.testing.assert_array_equal(again[4][key], SOURCE[4][key])
    assert (other[4]["image"] != SOURCE[4]["image"]).any()
    assert NAMES == ("background", "disc", "square", "triangle", "scissors", "handles", "handle", "blade")


def test_labels_masks_and_boxes_agree():
    for k in range(len(SOURCE)):
        example = SOURCE[k]
        labels, masks, boxes = example["segmentation"], example["masks"], example["boxes"]
        assert example["image"].shape == (64, 64, 3) and len(masks) == len(boxes) >= 1
        found = np.zeros((64, 64), bool)
        for of, (left, top, right, bottom, kind) in zip(masks, boxes.astype(int), strict=True):
            mask = of["segmentation"]
            assert kind == of["class"] > 0
            assert mask[top:bottom, left:right].sum() == mask.sum() >= 4
            assert mask[top].any() and mask[bottom - 1].any() and mask[:, left].any() and mask[:, right - 1].any()
            found |= mask > 0
            if NAMES[kind] in ("disc", "square", "triangle", "handle", "blade"):
                assert (labels[mask > 0] == kind).all()  # nothing lies over what is seen of it
        assert found[labels > 0].mean() > 0.95


def test_scissors_have_parts_within_parts():
    source, known = shapes.build(6, 96, kinds=["scissors"], objects=(1, 1), seed=1), set()
    for k in range(6):
        masks = [(source.label_names[of["class"]], of["segmentation"] > 0) for of in source[k]["masks"]]
        by_name = {name: [mask for of, mask in masks if of == name] for name, _ in masks}
        [whole], [handles] = by_name["scissors"], by_name["handles"]
        one, two = by_name["handle"]
        assert (one | two == handles).all() and not (one & two).any() and (handles <= whole).all()
        left, right = by_name["blade"]
        assert (left | right <= whole).all() and not ((left | right) & handles).any() and not (left & right).any()
        assert (left | right | handles).sum() > 0.97 * whole.sum()
        known.add(whole.sum())
    assert len(known) > 4


def test_what_is_put_over_an_object_is_taken_from_its_mask():
    scene = Scene(np.zeros((20, 20, 3), np.uint8), np.random.default_rng(0))
    square = np.full((14, 14), 255, np.uint8)
    for kind in (1, 2):
        assert scene.put(filled(square, (0, 0, 90 * kind)), [Part(square > 0, kind)], must=True)
    assert not scene.put(filled(square, (0, 0, 0)), [Part(square > 0, 3)], must=False)
    first, second = (of["segmentation"] for of in scene.example()["masks"])
    assert not (first & second).any() and first.sum() < second.sum() == 14 * 14
    np.testing.assert_array_equal(scene.image[..., 2], 90 * first + 180 * second)


def test_batches_of_scenes():
    section = {
        "image": {"name": "image"}, "segmentation": {"name": "dense", "count": len(NAMES)},
        "masks": {"name": "masks", "max_objects": 4, "mask_size": 32, "classes": len(NAMES)},
        "boxes": {"name": "boxes", "count": 6, "classes": len(NAMES)},
    }  # fmt: skip
    fields = build_fields(section, Context(Preprocess((64, 64)), NAMES))
    batch = TrainPipeline(SOURCE, None, 4, 0, num_threads=0, fields=fields).batch(0)
    assert batch["masks"].shape == (4, 4, 32, 32) and batch["masks_valid"].any(1).all()
    assert {key for key in batch if key != "corrupt"} == set(fields.specs)
    # What is drawn lies on objects, and every object is drawn on.
    row = {name: value[0] for name, value in batch.items()}
    for name in ("segmentation", "masks"):
        changed = (fields[name].draw(row["image"], name, row, 1) != row["image"]).any(-1)
        there = row["segmentation"] > 0 if name == "segmentation" else row["masks"].any(0).repeat(2, 0).repeat(2, 1)
        assert not changed[~there].any() and changed[there].mean() > 0.9
    assert set(fields["segmentation"].legend("segmentation", row)) == {
        NAMES[k] for k in np.unique(row["segmentation"]) if k
    }
    assert len(list(EvalPipeline(SOURCE, None, 8, num_threads=0, fields=fields).iterate())) == 2


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"kinds": ["disk"]}, "no shape named 'disk'. Did you mean 'disc'"),
        ({"kinds": []}, "is not a choice of shapes"),
        ({"kinds": ["disc", "disc"]}, "is not a choice of shapes"),
        ({"objects": (0, 2)}, r"objects=\[0, 2\] is not a range of numbers. Give two from 1: a scene has objects"),
        ({"scale": (0.5, 1.5)}, "scale=.* is not a range"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        shapes.build(2, **options)


def test_colours_are_in_the_names_where_they_are_asked_for():
    named = shapes.build(6, 64, kinds=("disc", "square"), colors=("red", "black"), seed=1)
    assert named.label_names == ("background", "red disc", "black disc", "red square", "black square")
    for k in range(6):
        example = named[k]
        for each in example["masks"]:
            pixels = example["image"][each["segmentation"] > 0]
            wanted = shapes.COLORS[named.label_names[each["class"]].split()[0]]
            assert np.abs(np.median(pixels, axis=0) - wanted).max() <= 21
    with pytest.raises(UserError, match="no colour named 'rad'.*Did you mean 'red'"):
        shapes.build(1, kinds=("disc",), colors=("rad",))
    with pytest.raises(UserError, match="Scissors are of several colours"):
        shapes.build(1, colors=("red",))
