"""Geometry is drawn once, and image, labels, points and boxes follow it alike."""

import hashlib

import numpy as np
import pytest

from vit_jax.data.placement import Placement
from vit_jax.data.transforms import supervised, two_views, view

# What the transforms made before geometry had a file of its own: pixels, and what the generator gives next.
DIGESTS = [
    ("3e5bb292df61419d", supervised, {}),
    ("82d396f3bf40706a", supervised, {"sampling": "torchvision", "interpolation": "bicubic", "area": (0.2, 1.0)}),
    ("b0c9f216a05ff955", supervised, {"sampling": "byol", "interpolation": "bilinear", "antialias": False}),
    ("1310ece097cd1cf0", supervised, {"crop": "none", "flip": False}),
    ("f4936b488c3d699d", supervised, {"rotate": 30.0, "shift": 0.1}),
    ("2c9b6e0c5e8b0f04", supervised, {"crop": "none", "rotate": 180.0, "border": "constant"}),
    ("4db03b36d95ae2bf", supervised, {"randaugment": {"layers": 2, "magnitude": 10}}),
    ("916ea4ef7297d755", supervised, {"randaugment": {"policy": "timm"}}),
    ("cb8aa58eb1b3f7d7", view, {}),
    ("7f6ea19c1b5a35b1", view, {"blur_sigma_per": "batch", "solarize": 0.5, "sampling": "byol"}),
    ("af80806d1b45a3c2", view, {"jitter": 0.0, "gray": 0.0, "blur": 0.0, "interpolation": "bicubic"}),
    ("c701fc6287ddbb96", two_views, {"first": {"blur": 1.0}, "second": {"solarize": 0.2}}),
]  # fmt: skip


@pytest.mark.parametrize("digest, recipe, options", DIGESTS)
def test_pixels_and_random_numbers_stay(digest, recipe, options):
    transform, found = recipe.build((24, 16), **options), hashlib.sha256()
    for k, shape in enumerate([(40, 60), (33, 17), (64, 64)]):
        image = np.random.default_rng(k).integers(0, 256, (*shape, 3), np.uint8)
        for seed in range(6):
            example, rng = {"image": image, "label": 3}, np.random.default_rng((k, seed))
            if shared := getattr(transform, "shared_draws", 0):
                example["shared_draws"] = np.full(shared, 0.25)
            made = transform(example, rng)
            assert set(made) == {"image", "label"}
            found.update(made["image"].tobytes())
            found.update(rng.random(2).tobytes())
    assert found.hexdigest()[:16] == digest


def ramp(height, width):
    """An image that says in each pixel where it is: red grows to the right by 2 a pixel, green downwards by 3."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([2 * columns + 20, 3 * rows + 20, 0 * rows], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("options", [{}, {"crop": "none"}, {"rotate": 40, "shift": 0.1}])
def test_all_that_lies_in_the_plane_follows_the_image(seed, options):
    transform = supervised.build((48, 56), area=(0.3, 1.0), border="constant", **options)
    source = ramp(60, 100)
    placement = transform.draw(60, 100, np.random.default_rng(seed))
    made = placement.image(source).astype(float)
    labels = np.stack([placement.dense(source[..., k].astype(np.int32), -1) for k in (0, 1)], axis=-1)
    known = (labels >= 0).all(-1)
    # Away from what is black, where the image is interpolated with the border.
    inner = known & np.all([np.roll(known, s, a) for s in (-2, 2) for a in (0, 1)], axis=0)
    inner[[0, 1, -1, -2]] = inner[:, [0, 1, -1, -2]] = False
    assert known.mean() > 0.4 and inner.any()
    assert np.abs(made[inner][:, :2] - labels[inner]).max() <= 4
    # A point keeps its colour, and a box around it stays around it.
    x, y = np.random.default_rng(seed).uniform([0, 0], [100, 60], (200, 2)).T
    moved, seen = placement.points(np.stack([x, y], axis=1))
    boxes = placement.boxes(np.stack([x - 3, y - 2, x + 3, y + 2], axis=1))
    columns, rows = np.clip(np.floor(moved.T).astype(int), 0, [[55], [47]])
    inside = seen & inner[rows, columns]
    expected = np.stack([2 * (x - 0.5) + 20, 3 * (y - 0.5) + 20], axis=1)
    assert inside.sum() > 20
    assert np.abs(made[rows, columns][:, :2] - expected)[inside].max() <= 5
    assert ((boxes[:, :2] <= moved + 1e-9) & (moved <= boxes[:, 2:] + 1e-9))[seen].all()
    gone = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    assert not (seen & gone).any()


def test_turns_and_mirrors_of_labels_are_exact():
    values = np.arange(16, dtype=np.uint8).reshape(4, 4)
    whole = (0, 0, 4, 4)
    np.testing.assert_array_equal(Placement(whole, (4, 4), degrees=90).dense(values, 99), np.rot90(values))
    np.testing.assert_array_equal(Placement(whole, (4, 4), flip=True).dense(values, 99), values[:, ::-1])
    np.testing.assert_array_equal(
        Placement((1, 2, 2, 2), (4, 4)).dense(values, 99), values[1:3, 2:].repeat(2, 0).repeat(2, 1)
    )
    padded = Placement((-1, -1, 6, 6), (6, 6)).dense(values, 99)
    np.testing.assert_array_equal(padded, np.pad(values, 1, constant_values=99))
    shifted = Placement(whole, (4, 4), shift=(0.25, 0)).dense(values, 99)
    np.testing.assert_array_equal(shifted, np.concatenate([np.full((1, 4), 99), values[:3]]))
