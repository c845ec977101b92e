"""The evaluator of class maps: its matrix and its numbers against loops, on one device and on eight."""

import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.evaluators import Answers
from vit_jax.evaluators.photo_views import Plan, Views, of_photos, pipeline_of
from vit_jax.evaluators.segmentation import Segmentation, build, counted, scores
from vit_jax.nn.resize import resize_bilinear


def drawn(seed=0, count=4):
    rng = np.random.default_rng(seed)
    label, found = (rng.integers(0, count - 1, (8, 5, 7)) for _ in range(2))  # the last class never occurs
    found[0, 0, :2] = count - 2
    there = rng.random((8, 5, 7)) < 0.8
    return np.where(there, label, 255).astype(np.int32), found.astype(np.int32), there


def by_loop(label, found, count):
    """IoU of each class that occurs, and recalls: pixel by pixel."""
    either, both, of = ([0] * count for _ in range(3))
    right = total = 0
    for wanted, got in zip(label.reshape(-1), found.reshape(-1), strict=True):
        if wanted == 255:
            continue
        total, right = total + 1, right + (wanted == got)
        of[wanted] += 1
        if wanted == got:
            both[wanted] += 1
            either[wanted] += 1
        else:
            either[wanted] += 1
            either[got] += 1
    return {
        "miou": np.mean([b / e for b, e in zip(both, either, strict=True) if e]),
        "pixel_accuracy": right / total,
        "mean_accuracy": np.mean([b / n for b, n in zip(both, of, strict=True) if n]),
        "pixels": total,
    }


def test_the_numbers_are_those_of_a_loop_and_of_any_number_of_devices():
    label, found, there = drawn()
    count = jax.jit(counted, static_argnums=3)
    confusion = np.asarray(count(label, found, there, 4), np.int64)
    assert scores(confusion) == pytest.approx(by_loop(label, found, 4), rel=1e-12)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread = (jax.device_put(x, rows) for x in (label, found, there))
    np.testing.assert_array_equal(count(*spread, 4), confusion)


def test_a_set_without_a_class_is_an_error_and_not_a_number():
    with pytest.raises(UserError, match="No pixel of the evaluation data has a class"):
        scores(np.zeros((3, 3), np.int64))


def test_classes_of_another_model_are_refused():
    class Pipeline:
        class source:
            label_names = ("sky", "sea")

    with pytest.raises(UserError, match="has no class 'sea' among its 2"):
        Segmentation(Pipeline()).judging(Answers(("sky", "land")))
    with pytest.raises(UserError, match="in another order"):
        Segmentation(Pipeline()).judging(Answers(("sea", "sky")))
    Segmentation(Pipeline()).judging(Answers(("sky", "sea")))


def photos(count=2):
    """Photos of several sizes in noise, and the class of each pixel; 255 for some."""
    rng, found = np.random.default_rng(0), []
    for k in range(count):
        height, width = 40 + 7 * k, 61 - 5 * k
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        label = image.argmax(-1).astype(np.uint8)
        label[:3] = 255
        found.append({"image": image, "segmentation": label, "path": f"photo {k}"})
    return found


class Photos(list):
    label_names = ("red", "green", "blue")


def pipeline(size, count=2):
    preprocess = Preprocess(size)
    section = {"image": {"name": "image"}, "segmentation": {"name": "dense", "count": 3}}
    fields = build_fields(section, Context(preprocess))
    return EvalPipeline(Photos(photos(count)), preprocess, 3, num_threads=0, fields=fields)


def looked_at(coarser=1, ramp=0):
    """A model that says of a pixel what its colours are, or of so many together, and red more to the right."""

    def run(views):
        for batch in views.iterate():
            logits = batch["image"].astype(np.float32) / 64
            b, h, w, _ = logits.shape
            logits[..., 0] += ramp * np.arange(w) / w
            logits = logits.reshape(b, h // coarser, coarser, w // coarser, coarser, 3).mean((2, 4))
            yield {"logits": logits, "index": batch["index"], "valid": batch["valid"]}

    run.keep = lambda name, make: None
    return run


def shares(pipeline, plan, coarser=1):
    views = Views(pipeline, plan)
    return dict(of_photos(views, looked_at(coarser)(pipeline_of(pipeline, views)))), views


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize("flip", [False, True])
def test_windows_give_each_pixel_of_a_photo_what_the_model_says_of_it(flip):
    """Windows of 24 at the photo's own scale: every pixel is seen as it is, once or more often."""
    for k, example in enumerate(photos()):
        plan = Plan(True, min(example["image"].shape[:2]), (1.0,), flip)
        found, views = shares(pipeline((24, 24)), plan)
        assert sorted(found) == [0, 1]
        np.testing.assert_allclose(found[k], softmax(example["image"] / 64.0), atol=1e-5)
    boxes = [place.box for index, _, place in views.rows if index == 1 and not place.flip]
    assert boxes == [(top, left, 24, 24) for top in (0, 16, 23) for left in (0, 16, 32)]


def test_a_photo_that_is_squashed_comes_back_by_bilinear_interpolation():
    of, plan = pipeline((32, 48)), Plan(False, 32, (1.0,), False)
    found, views = shares(of, plan, 2)
    batch = next(iter(pipeline_of(of, views).iterate()))
    half = (batch["image"][0].astype(np.float32) / 64).reshape(16, 2, 24, 2, 3).mean((1, 3))
    wanted = resize_bilinear(half, photos()[0]["image"].shape[:2], align_corners=False)
    np.testing.assert_allclose(found[0], softmax(wanted), atol=1e-5)


def test_mirror_images_are_averaged():
    """What a model has against the left is against both sides then."""
    of, example = pipeline((40, 61), 1), photos()[0]["image"] / 64.0
    views = Views(of, Plan(False, 40, (1.0,), True))
    found = dict(of_photos(views, looked_at(ramp=3)(pipeline_of(of, views))))[0]
    wanted = 0
    for ramp in (np.arange(61) / 61 * 3, np.arange(61)[::-1] / 61 * 3):
        wanted = wanted + softmax(example + np.stack([ramp, 0 * ramp, 0 * ramp], axis=-1)) / 2
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_photo_smaller_than_a_window_is_padded_and_scales_are_averaged():
    of = pipeline((64, 80))
    found, _ = shares(of, Plan(True, 60, (0.5, 1.0), False))
    one, two = (shares(of, Plan(True, side, (1.0,), False))[0] for side in (60, 30))
    for k, example in enumerate(photos()):
        assert found[k].shape == example["image"].shape
        np.testing.assert_allclose(found[k], (one[k] + two[k]) / 2, atol=1e-5)
        assert (one[k].argmax(-1) == example["image"].argmax(-1)).mean() > 0.6  # enlarged and back


def test_the_photo_s_own_pixels_are_counted():
    """Seen as it is a photo is never answered wrong, at half of the resolution it is: both as a loop has it."""
    of, plan = pipeline((24, 24), 1), Plan(True, 40, (1.0,), False)
    right = Segmentation(of, plan).metrics(looked_at())
    assert right["miou"] == right["pixel_accuracy"] == 1 and right["images"] == 1
    found = shares(of, plan, 2)[0][0].argmax(-1)
    coarse = Segmentation(of, plan).metrics(looked_at(2))
    assert coarse == pytest.approx(by_loop(photos()[0]["segmentation"], found, 3) | {"images": 1}, rel=1e-12)
    assert 0.3 < coarse["pixel_accuracy"] < 0.9


def test_options_that_do_not_go_together_are_said():
    def made(source=None):
        return pipeline((24, 24))

    for options, message in (
        ({"flip": True}, "are for evaluation at the photo's resolution"),
        ({"at": "photo", "scales": [0.5, 1.0]}, "has no scale"),
    ):
        with pytest.raises(UserError, match=message):
            build(made, **options)
    assert build(made, at="photo", windows=True, scales=[0.5, 1.0]).plan == Plan(True, 24, (0.5, 1.0), False)
