"""The supervised transform: shapes, statistics, and that a generator decides everything."""

import pickle

import numpy as np
import pytest

from vit_jax.data.geometry import resize
from vit_jax.data.transforms import supervised
from vit_jax.errors import UserError


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def views(transform, image, count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([transform({"image": image}, rng)["image"] for _ in range(count)])


@pytest.mark.parametrize("shape", [(8, 8), (50, 30), (30, 50), (1, 1), (200, 9)])
@pytest.mark.parametrize("options", [{}, {"crop": "none", "rotate": 20, "shift": 0.1}, {"rotate": 20}])
def test_shape_and_type(shape, options):
    made = views(supervised.build((16, 24), **options), noise(*shape), 20)
    assert made.shape == (20, 16, 24, 3) and made.dtype == np.uint8


def test_a_generator_decides_everything():
    transform = supervised.build(16, rotate=10, shift=0.1)
    assert transform == pickle.loads(pickle.dumps(transform))
    first = views(transform, noise(40, 30), 10)
    np.testing.assert_array_equal(first, views(transform, noise(40, 30), 10))
    assert (first != views(transform, noise(40, 30), 10, seed=1)).any()


def test_other_fields_pass_through_and_the_example_is_left_alone():
    image = noise(8, 8)
    example = {"image": image, "label": 3, "caption": "x"}
    made = supervised.build(16)(example, np.random.default_rng(0))
    assert {**made, "image": None} == {**example, "image": None}
    np.testing.assert_array_equal(image, noise(8, 8))
    assert example["image"] is image


def test_without_anything_random_it_is_a_resize():
    made = views(supervised.build((12, 10), crop="none", flip=False), noise(20, 30), 3)
    assert (made == resize(noise(20, 30), (12, 10))).all()


def test_half_of_the_views_are_mirrored():
    image = noise(8, 8)
    made = views(supervised.build(8, crop="none"), image, 1000)
    mirrored = (made == image[:, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (made == image).all(axis=(1, 2, 3))).all()
    assert 440 < mirrored.sum() < 560


def test_mirroring_works_in_the_warp_too():
    image = noise(8, 8)
    plain = views(supervised.build(8, crop="none", flip=False, rotate=30, shift=0.2), image, 40)
    flipped = views(supervised.build(8, crop="none", flip=True, rotate=30, shift=0.2), image, 40)
    same = (flipped == plain).all(axis=(1, 2, 3))
    mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    # Interpolation may round the mirrored positions differently.
    close = np.abs(flipped.astype(int) - plain[:, :, ::-1]).max(axis=(1, 2, 3)) <= 6
    assert (same | close).all() and 8 < same.sum() < 32 and mirrored.any()


def test_shift_is_uniform_within_its_bounds():
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[32, 32] = 255
    made = views(supervised.build(64, crop="none", flip=False, shift=0.25, border="constant"), dot, 400)[..., 0]
    mass = made / made.sum(axis=(1, 2), keepdims=True)
    down = (mass.sum(axis=2) * np.arange(64)).sum(axis=1) - 32
    right = (mass.sum(axis=1) * np.arange(64)).sum(axis=1) - 32
    for moved in (down, right):
        assert np.abs(moved).max() <= 16.1 and moved.min() < -14 and moved.max() > 14
        assert abs(moved.mean()) < 2.5 and abs(moved.std() - 32 / np.sqrt(12)) < 1.2
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.25


def test_rotation_is_uniform_within_its_bounds():
    bar = np.zeros((65, 65, 3), np.uint8)
    bar[32, 40:60] = 255
    made = views(supervised.build(65, crop="none", flip=False, rotate=40, border="constant"), bar, 300)[..., 0]
    mass = made / made.sum(axis=(1, 2), keepdims=True)
    down = (mass.sum(axis=2) * np.arange(65)).sum(axis=1) - 32
    right = (mass.sum(axis=1) * np.arange(65)).sum(axis=1) - 32
    degrees = np.rad2deg(np.arctan2(-down, right))
    assert np.abs(degrees).max() < 41 and degrees.min() < -36 and degrees.max() > 36
    assert abs(degrees.mean()) < 6 and abs(degrees.std() - 80 / np.sqrt(12)) < 3


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"crop": "inceptoin"}, "Did you mean 'inception'"),
        ({"border": "black"}, "border"),
        ({"area": (0.5, 0.2)}, "area"),
        ({"area": (0, 1)}, "area"),
        ({"area": (0.5, 2)}, "high <= 1"),
        ({"area": 0.5}, "area"),
        ({"aspect": (0, 1)}, "aspect"),
        ({"rotate": -5}, "rotate"),
        ({"shift": 1}, "shift"),
        ({"flip": "no"}, "flip"),
        ({"image_size": (0, 8)}, "image_size"),
    ],
)
def test_bad_values_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        supervised.build(**{"image_size": 8, **wrong})
