"""Random views: each part by itself, both recipes, and that a generator decides everything."""

import pickle

import numpy as np
import pytest

from vit_jax.data import color
from vit_jax.data.geometry import torchvision_crop_box
from vit_jax.data.pipeline import TrainPipeline
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.data.transforms import two_views, view
from vit_jax.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
# Nothing happens: the whole image, unless its aspect ratio forbids it.
OFF = {"area": (1.0, 1.0), "aspect": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0}


def draws(transform, image=NOISE, count=20, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([transform({"image": image}, rng)["image"] for _ in range(count)])


def test_two_views_of_an_image():
    transform = two_views.build((16, 24), solarize=0.2)
    assert transform == pickle.loads(pickle.dumps(transform))
    image = NOISE.copy()
    made = transform({"image": image, "label": 3}, np.random.default_rng(0))
    assert made["image"].shape == (2, 16, 24, 3) and made["image"].dtype == np.uint8 and made["label"] == 3
    np.testing.assert_array_equal(image, NOISE)
    first = draws(transform)
    np.testing.assert_array_equal(first, draws(transform))
    assert (first[:, 0] != first[:, 1]).any(axis=(1, 2, 3)).all()


def test_views_of_their_own():
    """MoCo v3's asymmetry: only the second view is solarised, and the rest is shared."""
    square = NOISE[:30]
    made = draws(two_views.build(30, **OFF, second={"solarize": 1.0}), square, 2)
    np.testing.assert_array_equal(made, np.stack([[square, color.solarize(square)]] * 2))
    alike = draws(two_views.build(30, **{**OFF, "flip": 0.5}), square, 200)
    flipped = (alike == square[:, ::-1]).all(axis=(2, 3, 4))
    assert (flipped | (alike == square).all(axis=(2, 3, 4))).all()
    assert 70 < flipped[:, 0].sum() < 130 and 70 < (flipped[:, 0] == flipped[:, 1]).sum() < 130


@pytest.mark.parametrize(
    ("option", "done"),
    [
        ({"gray": 0.3}, lambda x: (x == color.grayscale(NOISE[:30])).all(axis=(1, 2, 3))),
        ({"solarize": 0.3}, lambda x: (x == color.solarize(NOISE[:30])).all(axis=(1, 2, 3))),
        ({"blur": 0.3}, lambda x: x.std(axis=(1, 2, 3)) < 0.99 * NOISE[:30].std()),
        ({"jitter": 0.3, "strength": 0.5}, lambda x: (x != NOISE[:30]).any(axis=(1, 2, 3))),
    ],
    ids=["gray", "solarize", "blur", "jitter"],
)
def test_probabilities(option, done):
    made = draws(view.build(30, **{**OFF, **option}), NOISE[:30], 400)
    assert 0.22 < done(made).mean() < 0.38


def test_strength_scales_the_distortion():
    grey = np.full((20, 20, 3), 100, np.uint8)
    options = {**OFF, "jitter": 1.0, "hue": 0.0}
    spread = [np.ptp(draws(view.build(20, **options, strength=s), grey, 200)[:, 0, 0, 0]) for s in (0.25, 1.0)]
    assert 30 < spread[0] < 45 and 130 < spread[1] < 165
    none = draws(view.build(20, **options, strength=0.0), grey, 5)
    assert (none == 100).all()


def test_a_switched_off_part_leaves_the_others_as_they_were():
    without = draws(view.build(24, solarize=0.0, gray=0.0, blur=0.0, flip=0.0))
    np.testing.assert_array_equal(
        draws(view.build(24, solarize=0.0, gray=0.0, blur=0.0, flip=1.0)), without[:, :, ::-1]
    )


@pytest.mark.parametrize("crop", ["uniform", "inception"])
def test_crops_keep_within_their_area(crop):
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(64)[:, None], np.arange(64)
    options = {**OFF, "area": (0.25, 0.5), "aspect": (0.8, 1.25), "crop": crop}
    made = draws(view.build(64, **options), ramp, 100).astype(int)
    height, width = (np.ptp(made[..., c].reshape(100, -1), axis=1) + 1 for c in (0, 1))
    share = height * width / 64**2
    assert share.min() > 0.2 and share.max() < 0.55 and np.ptp(share) > 0.15
    assert (width / height).min() > 0.7 and (width / height).max() < 1.4


def test_a_crop_that_never_fits_is_central():
    rng = np.random.default_rng(0)
    assert torchvision_crop_box(10, 100, rng, (0.9, 1.0), (3 / 4, 4 / 3)) == (0, 43, 10, 13)
    assert torchvision_crop_box(100, 10, rng, (0.9, 1.0), (3 / 4, 4 / 3)) == (43, 0, 13, 10)


def test_batches_through_the_pipeline():
    source = ArraySource(np.stack([NOISE] * 6), np.arange(6) % 2, ("a", "b"))
    batch = TrainPipeline(source, two_views.build(16), batch_size=4, seed=0).batch(1)
    assert batch["image"].shape == (4, 2, 16, 16, 3) and batch["label"].shape == (4,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": "unifrom"}, "Did you mean 'uniform'"),
        ({"area": (0.5, 0.2)}, "area"),
        ({"area": (0.5, 2)}, "high <= 1"),
        ({"aspect": (0, 1)}, "aspect"),
        ({"blur_sigma": 1.0}, "blur_sigma"),
        ({"blur": 1.5}, "blur=1.5 is not a probability"),
        ({"strength": -1}, "strength=-1"),
        ({"strength": 3}, "half a turn"),
        ({"image_size": 0}, "image_size"),
        ({"second": {"solarise": 0.2}}, "config.data.transform.second.solarise'. Did you mean 'solarize'"),
        ({"bulr": 0.2}, "config.data.transform.bulr'. Did you mean 'blur'"),
    ],
)
def test_bad_values_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        two_views.build(**{"image_size": 8, **wrong})


def test_an_image_too_small_for_its_crops():
    with pytest.raises(UserError, match="2x3 pixels is too small for crops of 8% of it"):
        draws(two_views.build(8), NOISE[:2, :3], 1)
    assert draws(two_views.build(8), NOISE[:4, :4], 3).shape == (3, 2, 8, 8, 3)


def test_one_blur_for_a_batch():
    """As in SimCLR's code; whatever slice of the batch is asked for, and each of the two views with its own."""
    dot = np.zeros((31, 31, 3), np.uint8)
    dot[15, 15] = 255
    source = ArraySource(np.stack([dot] * 8), np.zeros(8, int), ("a",))
    options = {**OFF, "blur": 1.0, "blur_sigma": (1.0, 6.0)}
    shared = two_views.build(31, **options, blur_sigma_per="batch")
    pipeline = TrainPipeline(source, shared, batch_size=4, seed=0, num_threads=0)
    batches = [pipeline.batch(step) for step in range(3)]
    assert set(batches[0]) == {"image", "label", "corrupt"}
    sigmas = []
    for step, batch in enumerate(batches):
        assert (batch["image"] == batch["image"][:1]).all()
        np.testing.assert_array_equal(pipeline.batch(step, 2, 1)["image"], batch["image"][2:])
        sigmas += [int(view[15, 15, 0]) for view in batch["image"][0]]
    assert len(set(sigmas)) >= 5
    own = TrainPipeline(source, two_views.build(31, **options), batch_size=4, seed=0, num_threads=0).batch(0)["image"]
    assert (own[0] != own[1]).any() and (own[:, 0] != own[:, 1]).any()
    # Where there is no batch, an image draws its own.
    assert shared({"image": dot}, np.random.default_rng(0))["image"].shape == (2, 31, 31, 3)
