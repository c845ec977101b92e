"""Resizing, cropping, rotating: exact where they can be, statistics where they are random."""

import math

import numpy as np
import pytest

from vit_jax.data import geometry
from vit_jax.errors import UserError


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_shrinking_averages():
    image = noise(12, 20)
    means = image.reshape(4, 3, 5, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(geometry.resize(image, (4, 5)), means, atol=0.51)


def test_one_side_may_shrink_while_the_other_grows():
    columns = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None], (4, 1, 3))
    resized = geometry.resize(columns, (9, 12))
    assert resized.shape == (9, 12, 3)
    np.testing.assert_array_equal(resized[0, :, 0], np.arange(5, 240, 20))
    assert (resized == resized[:1]).all()


def test_enlarging_is_bilinear_with_half_pixel_centres():
    image = np.array([[0, 100]], np.uint8)[..., None].repeat(3, -1)
    np.testing.assert_array_equal(geometry.resize(image, (1, 4))[0, :, 0], [0, 25, 75, 100])


def test_resize_to_the_same_size_changes_nothing():
    np.testing.assert_array_equal(geometry.resize(noise(5, 7), (5, 7)), noise(5, 7))


@pytest.mark.parametrize("shape", [(100, 50), (50, 100), (33, 77), (77, 33), (20, 20), (1, 300)])
def test_short_side_and_centre_crop(shape):
    resized = geometry.resize_short_side(noise(*shape), 40)
    assert min(resized.shape[:2]) == 40
    assert max(resized.shape[:2]) == round(40 * max(shape) / min(shape))
    assert geometry.centre_crop(resized, (40, 32)).shape == (40, 32, 3)


def test_centre_crop_is_central():
    image = noise(7, 10)
    np.testing.assert_array_equal(geometry.centre_crop(image, (3, 4)), image[2:5, 3:7])
    with pytest.raises(ValueError, match="cannot crop"):
        geometry.centre_crop(image, (8, 8))


def test_flip():
    np.testing.assert_array_equal(geometry.flip(noise(4, 5)), noise(4, 5)[:, ::-1])


def boxes(height, width, count=4000, **kwargs):
    rng = np.random.default_rng(0)
    return np.array([geometry.inception_crop_box(height, width, rng, **kwargs) for _ in range(count)])


@pytest.mark.parametrize("height, width", [(375, 500), (500, 375), (8, 8), (32, 32)])
def test_inception_crop_stays_within_bounds(height, width):
    top, left, h, w = boxes(height, width).T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    share = h * w / (height * width)
    assert share.min() >= 0.05 and share.max() <= 1
    ratio = w / h
    slack = 1.02 if min(height, width) > 100 else 2.1  # a crop of two or three pixels is rounded roughly
    assert ratio.min() >= 3 / 4 / slack and ratio.max() <= 4 / 3 * slack


def test_inception_crop_has_the_distribution_of_tensorflow():
    """With a ratio of 1 on a square, the side is uniform between its bounds, and so is the position."""
    top, _, h, w = boxes(1000, 1000, aspect=(1, 1), area=(0.04, 0.64)).T
    assert (h == w).all()
    assert h.min() >= 200 and h.max() <= 800
    # Uniform over 600 pixels: mean 500, standard deviation 173. Four thousand draws, five standard errors.
    assert abs(h.mean() - 500) < 5 * 173 / math.sqrt(4000)
    assert abs(h.std() - 600 / math.sqrt(12)) < 6
    where = top / (1000 - h)
    assert abs(where.mean() - 0.5) < 0.025 and abs(where.std() - 1 / math.sqrt(12)) < 0.01


def test_inception_crop_ratio_is_uniform():
    _, _, h, w = boxes(2000, 2000, area=(0.05, 0.2)).T
    assert abs((w / h).mean() - (3 / 4 + 4 / 3) / 2) < 0.015


def test_inception_crop_falls_back_to_the_whole_image():
    rng = np.random.default_rng(0)
    assert geometry.inception_crop_box(4, 1000, rng, area=(0.5, 1.0)) == (0, 0, 4, 1000)
    assert geometry.inception_crop_box(1, 1, rng) == (0, 0, 1, 1)


@pytest.mark.parametrize("area, sides", [((0.06, 0.09), {3}), ((0.04, 0.15), {2, 3})])
def test_inception_crop_corrects_rounding_rather_than_drawing_again(area, sides):
    """On 10x10 pixels, the sides for these areas round to 2 (area 4, not 6) and to 4 (area 16, not 15)."""
    assert set(boxes(10, 10, 100, aspect=(1, 1), area=area, attempts=1)[:, 2]) == sides


def test_inception_crop_is_a_function_of_the_generator():
    np.testing.assert_array_equal(boxes(300, 400, 50), boxes(300, 400, 50))


def test_rotation_by_quarter_turns_is_exact():
    image = noise(9, 9)
    np.testing.assert_array_equal(geometry.rotate_shift(image, 0), image)
    np.testing.assert_array_equal(geometry.rotate_shift(image, 90), np.rot90(image))
    np.testing.assert_array_equal(geometry.rotate_shift(image, -90), np.rot90(image, -1))
    np.testing.assert_array_equal(geometry.rotate_shift(image, 90, mirror=True), np.rot90(image)[:, ::-1])


def test_shift_moves_down_and_right_and_fills_the_border():
    image = noise(10, 20)
    black = geometry.rotate_shift(image, 0, (0.2, 0.1), border="constant")
    np.testing.assert_array_equal(black[2:, 2:], image[:-2, :-2])
    assert (black[:2] == 0).all() and (black[:, :2] == 0).all()
    replicated = geometry.rotate_shift(image, 0, (0.2, 0.1))
    np.testing.assert_array_equal(replicated[2:, 0], image[:-2, 0])
    mirrored = geometry.rotate_shift(image, 0, (0.2, 0.1), mirror=True, border="constant")
    np.testing.assert_array_equal(mirrored, black[:, ::-1])


@pytest.mark.parametrize("size", [(32, 48), (5, 6)])
def test_rotate_shift_resizes_like_resize(size):
    image = noise(10, 12)
    warped = geometry.rotate_shift(image, 0, size=size).astype(int)
    # A warp keeps fewer fractional bits than a resize.
    np.testing.assert_allclose(warped, geometry.resize(image, size), atol=8 if size[0] > 10 else 0)
    assert np.abs(warped - geometry.resize(image, size)).mean() < 1.5


def test_one_warp_equals_one_step_after_the_other():
    smooth = geometry.resize(noise(4, 4), (16, 16))
    at_once = geometry.rotate_shift(smooth, 30, (0.1, -0.2), size=(64, 64), mirror=True)
    stepwise = geometry.flip(geometry.rotate_shift(geometry.resize(smooth, (64, 64)), 30, (0.1, -0.2)))
    assert np.abs(at_once.astype(int) - stepwise).mean() < 1


def test_size_pair():
    assert geometry.size_pair(8) == (8, 8)
    assert geometry.size_pair([8, 16]) == (8, 16)
    for wrong in (0, -1, (8,), (8, 8, 8), "224", (8.0, 8), 224.0, None):
        with pytest.raises(UserError, match="image_size"):
            geometry.size_pair(wrong)


def test_bounds():
    assert geometry.bounds("area", [0.25, 1], 1) == (0.25, 1) and geometry.bounds("aspect", (2, 2)) == (2, 2)
    for values, most in (((0, 1), 1), ((0.5, 0.25), 1), ((0.5, 1.5), 1), ((1, 2, 3), 9), (0.5, 1)):
        with pytest.raises(UserError, match="area="):
            geometry.bounds("area", values, most)
