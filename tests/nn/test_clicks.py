"""Clicks and boxes of masks against OpenCV and counting."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.nn.clicks import box_around, central_click, loose_box, rim, squared_depth, uniform_click


def blobs(seed: int, height: int = 23, width: int = 31) -> np.ndarray:
    """Random masks with bays and holes, which touch the edges."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    return cv2.GaussianBlur(noise, (7, 7), 2) > -0.02


def test_depths_are_the_exact_distances_to_what_is_outside():
    masks = np.stack([blobs(seed) for seed in range(6)] + [np.ones((23, 31), bool), np.zeros((23, 31), bool)])
    found = jax.jit(jax.vmap(squared_depth))(masks)
    for depth, mask in zip(np.asarray(found), masks, strict=True):
        padded = np.pad(mask.astype(np.uint8), 1)
        expected = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        np.testing.assert_allclose(np.sqrt(depth), expected, atol=1e-4)
    assert found[-2].max() == 12**2 and found[-1].max() == 0


def test_a_central_click_is_in_the_deepest_pixel():
    mask = np.zeros((20, 20), bool)
    mask[2:9, 3:10] = True  # 7x7, so that one pixel is the middle
    mask[12:15, 12:19] = True
    np.testing.assert_array_equal(central_click(jnp.asarray(mask)), [6.5, 5.5])


def test_every_pixel_of_a_region_is_clicked_as_often():
    region = np.zeros((4, 5), bool)
    region[0, 0] = region[1, 3] = region[3, 4] = region[2, 2] = True
    chance = np.arange(4000, dtype=np.float32) / 4000
    clicks = np.asarray(jax.jit(jax.vmap(uniform_click, (0, None)))(chance, jnp.asarray(region)))
    places, counts = np.unique(clicks, axis=0, return_counts=True)
    np.testing.assert_array_equal(places, [[0.5, 0.5], [2.5, 2.5], [3.5, 1.5], [4.5, 3.5]])
    np.testing.assert_array_equal(counts, 1000)
    almost = jnp.float32(1 - 2**-24)  # as large as a float below 1 is
    np.testing.assert_array_equal(uniform_click(almost, jnp.ones((1500, 1500), bool)), [1499.5, 1499.5])
    np.testing.assert_array_equal(uniform_click(almost, jnp.zeros((4, 5), bool)), [0.5, 0.5])  # somewhere inside


def test_a_box_goes_from_edge_to_edge():
    mask = np.zeros((9, 12), bool)
    mask[2, 3] = mask[6, 10] = True
    np.testing.assert_array_equal(box_around(jnp.asarray(mask)), [3, 2, 11, 7])
    np.testing.assert_array_equal(box_around(jnp.ones((9, 12), bool)), [0, 0, 12, 9])
    np.testing.assert_array_equal(box_around(jnp.zeros((9, 12), bool)), [0, 0, 0, 0])


def test_a_loose_box_is_off_by_a_share_of_its_side_and_so_many_pixels_at_most():
    chance = np.random.default_rng(1).random((2000, 4)).astype(np.float32)
    draw = jax.jit(jax.vmap(loose_box, (0, None, None, None, None)), static_argnums=2)
    box = jnp.float32([40, 20, 140, 60])
    off = np.asarray(draw(chance, box, (100, 200), 0.1, 20.0)) - np.asarray(box)
    np.testing.assert_allclose(off.std(axis=0), [10, 4, 10, 4], rtol=0.08)  # of the side in that direction
    assert np.abs(off).max() <= 20 and np.abs(off[:, ::2]).max() == pytest.approx(20)
    assert np.abs(off.mean(axis=0)).max() < 1
    # At the edge it stays in the image, and never turns round.
    small = np.asarray(draw(chance, jnp.float32([0, 0, 200, 3]), (100, 200), 5.0, 1000.0))
    assert small.min() >= 0 and (small[:, 2:] >= small[:, :2]).all() and small[:, 2].max() <= 200
    assert small[:, 3].max() <= 100


@pytest.mark.parametrize("width", [1, 3])
def test_a_rim_is_what_erosion_takes_away(width):
    masks = np.stack([blobs(seed) for seed in range(4)] + [np.ones((23, 31), bool)])
    found = np.asarray(jax.vmap(lambda mask: rim(mask, width))(jnp.asarray(masks)))
    for got, mask in zip(found, masks, strict=True):
        padded = np.pad(mask.astype(np.uint8), 1)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
        np.testing.assert_array_equal(got, mask & (eroded == 0))
