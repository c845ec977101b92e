"""Objects' masks in every form that annotations have them in, into slots of a batch."""

import importlib.util
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from vit_jax.data import regions as stored
from vit_jax.data.decode import UnreadableImage, decode, decode_rgba
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.placement import Placement
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.regions import Regions, regions
from vit_jax.data.transforms import supervised
from vit_jax.errors import UserError

PLANE = (20, 30)
MASK = np.zeros(PLANE, np.uint8)
MASK[3:15, 5:25] = 1
POLYGON = [[5, 3, 25, 3, 25, 15, 5, 15]]


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def runs(mask):
    lengths, last, run = [], 0, 0
    for value in mask.ravel(order="F").tolist():
        if value != last:
            lengths, last, run = [*lengths, run], value, 0
        run += 1
    return {"size": list(mask.shape), "counts": [*lengths, run]}


def packed(mask):
    found = coco.encode(np.asfortranarray(mask))
    return {"size": found["size"], "counts": found["counts"].decode()}


def rgba(mask):
    return png(np.dstack([np.full((*mask.shape, 3), 90, np.uint8), mask * 255]))


def field(size=(20, 30), **section):
    data = Context(Preprocess(size), ())
    return build_fields({"image": {"name": "image"}, "m": {"name": "masks", **section}}, data)["m"]


@pytest.mark.parametrize(
    "raw",
    [
        [POLYGON], [runs(MASK)], [packed(MASK)], [png(MASK)], [rgba(MASK)], rgba(MASK), png(MASK * 7), [MASK], MASK[None],
        [MASK > 0], MASK * 3, [{"segmentation": POLYGON, "class": 0}], json.dumps([POLYGON]), json.dumps([runs(MASK)]),
        json.dumps([{"segmentation": packed(MASK)}]).encode(),
    ],
)  # fmt: skip
def test_all_forms_are_the_same_mask(raw):
    kind = field(max_objects=2)
    whole = Placement((0, 0, *PLANE), PLANE)
    found = kind.batched("m", kind.move(kind.read(raw, "x", PLANE), whole))
    np.testing.assert_array_equal(found["m"], np.stack([MASK, 0 * MASK]))
    assert found["m_valid"].tolist() == [True, False] and found["m_dropped"] == 0
    assert {key: spec.shape for key, spec in kind.spec("m").items()} == {key: np.shape(v) for key, v in found.items()}


def test_polygons_are_drawn_as_pycocotools_draws_them():
    rng = np.random.default_rng(0)
    for _ in range(5):
        parts = [rng.uniform(-2, 32, 2 * rng.integers(3, 8)).tolist() for _ in range(2)]
        wanted = coco.decode(coco.merge(coco.frPyObjects(parts, *PLANE)))
        np.testing.assert_array_equal(regions([parts], "x")[0].mask(PLANE, "x"), wanted)


def test_numbers_of_objects_are_one_mask_each():
    numbers = np.zeros(PLANE, np.uint16)
    numbers[2:5, 2:5], numbers[8:12, 3:9] = 900, 2
    found = Regions(tuple(regions(png(numbers), "x")), PLANE, "x")
    np.testing.assert_array_equal(found.masks(), [numbers == 2, numbers == 900])


def test_opacity_is_read_as_it_is_and_colours_as_before():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 4), np.uint8)
    found = decode_rgba(png(pixels), "x")
    np.testing.assert_array_equal(found, pixels[..., [2, 1, 0, 3]])
    mixed = found[..., :3] * (found[..., 3:] / 255) + 255 - found[..., 3:]
    assert np.abs(decode(png(pixels)) - mixed).max() <= 0.5 + 1e-6
    grey = png(pixels[..., 0])
    np.testing.assert_array_equal(decode_rgba(grey, "x"), np.dstack([*[pixels[..., 0]] * 3, np.full((6, 9), 255)]))
    photo = cv2.imencode(".jpg", pixels[..., :3])[1].tobytes()
    np.testing.assert_array_equal(decode_rgba(photo, "x")[..., :3], decode(photo))


class Scenes:
    """Six bars from left to right, bar k in columns 5 k to 5 k + 3, of the class k."""

    label_names = tuple("abcdef")

    def __len__(self):
        return 4

    def __getitem__(self, index):
        bars = [{"segmentation": [[5 * k, 2, 5 * k + 3, 2, 5 * k + 3, 18, 5 * k, 18]], "class": k} for k in range(6)]
        return {"image": np.zeros((*PLANE, 3), np.uint8), "masks": bars}


def fields(**section):
    section = {"image": {"name": "image"}, "masks": {"name": "masks", "classes": 6, **section}}
    return build_fields(section, Context(Preprocess(PLANE), Scenes.label_names))


def test_which_objects_are_kept_is_a_function_of_seed_and_element():
    few = fields(max_objects=2)
    made = [TrainPipeline(Scenes(), None, 4, 3, num_threads=n, fields=few) for n in (0, 2)]
    first, other = (pipeline.batch(1) for pipeline in made)
    for name, value in first.items():
        np.testing.assert_array_equal(value, other[name])
    kinds = np.concatenate([made[0].batch(step)["masks_class"] for step in range(30)])
    assert (kinds[:, 0] != kinds[:, 1]).all()
    # Each of 30 ordered pairs about four times in 120; that one of them never came would be a chance of 2%.
    assert len(np.unique(kinds, axis=0)) > 25
    assert (
        TrainPipeline(Scenes(), None, 4, 4, num_threads=0, fields=few).batch(1)["masks_class"] != first["masks_class"]
    ).any()
    assert (first["masks_dropped"] == 4).all() and first["masks_valid"].all()
    for kinds, masks in zip(first["masks_class"], first["masks"], strict=True):
        assert [np.flatnonzero(mask.any(axis=0)).tolist() for mask in masks] == [
            list(range(5 * k, 5 * k + 3)) for k in kinds
        ]
    [batch] = EvalPipeline(Scenes(), None, 4, num_threads=0, fields=few).iterate()
    assert (batch["masks_class"] == [0, 1]).all() and (batch["masks_dropped"] == 4).all()


def test_slots_are_filled_with_what_the_view_shows_and_nothing_else_is_drawn(monkeypatch):
    drawn, polygons = [], stored._of_polygons
    monkeypatch.setattr(stored, "_of_polygons", lambda *given: drawn.append(given[0][0][0]) or polygons(*given))
    few = fields(max_objects=2, min_area=10)
    TrainPipeline(Scenes(), None, 4, 3, num_threads=0, fields=few).batch(0)
    assert len(drawn) == 4 * 2
    crop = supervised.build(PLANE, area=(0.2, 0.3), flip=False)
    batch = TrainPipeline(Scenes(), crop, 16, 0, num_threads=0, fields=few).batch(0)
    areas = batch["masks"].sum((2, 3))
    assert (areas[batch["masks_valid"]] >= 10).all() and (areas[~batch["masks_valid"]] == 0).all()
    assert batch["masks_valid"].sum() > 16
    # The original has all of them, and draws them at the image's size.
    original, _ = EvalPipeline(Scenes(), None, 1, num_threads=0, fields=few).original(0)
    assert original["masks"].masks().shape == (6, *PLANE) and original["masks"].classes == list(range(6))


def test_masks_of_another_size_and_how_a_field_is_stored():
    kind = field((40, 60), max_objects=1, mask_size=(20, 30))
    view = Placement((0, 0, 20, 30), (40, 60), flip=True)
    np.testing.assert_array_equal(kind.move(kind.read([MASK], "x", PLANE), view).masks[0], MASK[:, ::-1])
    section = {"image": {"name": "image"}, "m": {"name": "masks", "max_objects": 3, "mask_size": 5, "classes": 2}}
    built = build_fields(section, Context(Preprocess((10, 10)), ()))
    assert build_fields(json.loads(json.dumps(built.to_json())), Context(Preprocess((10, 10)), ())) == built
    with pytest.raises(UserError, match="Masks of 8x8 have not the proportions of images of 30x20"):
        field(max_objects=1, mask_size=8)


@pytest.mark.parametrize(
    "raw, sentence",
    [
        ([[[5, 3, 25, 3]]], r"a polygon of \[4\] numbers"),
        ([[[5, 3, 25, 3, 9]]], r"a polygon of \[5\] numbers"),
        ([[[5, 3, 25, 3, 9, float("nan")]]], "a polygon that reaches far beyond its image"),
        ([[[5, 3, 25, 3, 9, 1e9]]], "a polygon that reaches far beyond its image"),
        ([[[10**400, 3, 25, 3, 9, 1]]], "a polygon that is no list of numbers"),
        ([[["a", 3, 25, 3, 9, 1]]], "a polygon that is no list of numbers"),
        ([[]], "an object without polygons"),
        ([{"size": [20, 30], "counts": [5, 7]}], r"run lengths that do not decode \(12 pixels\)"),
        ([{"size": [20, 30], "counts": [5, -7, 602]}], "run lengths that do not decode"),
        ([{"size": [20, 30], "counts": [0.5]}], "run lengths that do not decode"),
        ([{"size": [20, 30], "counts": "\x7f\x7fo"}], "run lengths that do not decode"),
        ([{"size": [20, 30], "counts": "\u00e9"}], "run lengths that do not decode"),
        ([{"size": [20, 30]}], "run lengths that do not decode"),
        ([{"size": "20x30", "counts": "a"}], "run lengths of the size '20x30'"),
        ("[[1, 2", "is neither a PNG nor JSON"),
        ([png(MASK)[:60]], "cut short|damaged"),
        ([], "has no objects. Leave images without objects out"),
        (0 * MASK, "has no objects"),
    ],
)
def test_what_does_not_decode_is_one_sentence_and_training_goes_on(raw, sentence):
    with pytest.raises(UnreadableImage, match=rf"^p\.jpg, field 'm',.*({sentence})"):
        field(max_objects=2).read(raw, "p.jpg, field 'm',", PLANE).masks()


@pytest.mark.parametrize(
    "raw, sentence",
    [
        ([packed(MASK.T)], "run lengths of 20x30 on an image of 30x20. Make them as large"),
        ([MASK[:9]], "a mask of 30x9 on an image of 30x20. Make it as large"),
        ([{"segmentation": POLYGON, "class": -1}], "an object of the class -1. Number them from 0"),
        ([{"segmentation": POLYGON, "class": 2}], "the class 2, outside the 2 of the field"),
        (MASK / 2, r"is float64 \[20, 30\]. Give COCO's polygons"),
        (3, "is 3. Give COCO's polygons"),
        (["a"], "an object that is 'a'"),
    ],
)
def test_what_is_something_else_is_one_sentence(raw, sentence):
    with pytest.raises(UserError, match=rf"^p\.jpg.*{sentence}"):
        field(max_objects=2, classes=2).read(raw, "p.jpg", PLANE).masks()


def test_without_pycocotools_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for raw in ([POLYGON], [packed(MASK)]):
        with pytest.raises(
            UserError, match=r"need pycocotools, which is not installed. pip install 'vit_jax\[dense\]'"
        ):
            field(max_objects=1).read(raw, "x", PLANE).masks()
    assert field(max_objects=1).read([MASK], "x", PLANE).masks().any()
