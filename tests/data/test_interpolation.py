"""Resizing of training crops against Pillow and against JAX, whose image.resize is TensorFlow's without antialiasing."""

import jax
import numpy as np
import pytest
from PIL import Image as Pillow

from vit_jax.data import geometry
from vit_jax.data.interpolation import interpolate
from vit_jax.data.transforms import supervised, view
from vit_jax.errors import UserError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (61, 83, 3), dtype=np.uint8)
SIZES = [(20, 31), (96, 100), (30, 130), (61, 83), (1, 1)]


@pytest.mark.parametrize("size", SIZES[:3])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_without_antialiasing_it_is_tensorflows(method, size):
    shape = (*size, 3)
    expected = jax.image.resize(IMAGE.astype(np.float32), shape, {"bilinear": "linear", "bicubic": "cubic"}[method],
                                antialias=False)  # fmt: skip
    made = interpolate(IMAGE, size, method, antialias=False)
    # OpenCV has 11 bits for a bilinear weight.
    assert made.dtype == np.uint8 and made.flags.c_contiguous
    assert np.abs(made - np.clip(expected, 0, 255)).max() <= (0.51 if method == "bicubic" else 1.0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_with_antialiasing_it_is_pillows(method, size):
    kernel = getattr(Pillow.Resampling, method.upper())
    # Width first, because versions of Pillow differ in the order.
    expected = Pillow.fromarray(IMAGE).resize((size[1], 61), kernel).resize(size[::-1], kernel)
    np.testing.assert_array_equal(interpolate(IMAGE, size, method), np.asarray(expected))
    if size == (20, 31):
        assert np.abs(interpolate(IMAGE, size, method).astype(int) - interpolate(IMAGE, size, method, False)).mean() > 5


@pytest.mark.parametrize("sampling", ["inception", "torchvision", "byol"])
@pytest.mark.parametrize(("method", "antialias"), [("bicubic", True), ("bilinear", False), ("area", True)])
def test_the_transforms_crop_and_resize_as_they_are_told(sampling, method, antialias):
    options = {"sampling": sampling, "area": (0.2, 0.6), "interpolation": method, "antialias": antialias}
    transform = supervised.build(24, flip=False, **options)
    plain = view.build(24, flip=0.0, jitter=0.0, gray=0.0, blur=0.0, **options)
    for seed in range(5):
        box = geometry.CROP_BOXES[sampling](61, 83, np.random.default_rng(seed), (0.2, 0.6))
        top, left, height, width = box
        expected = interpolate(IMAGE[top : top + height, left : left + width], (24, 24), method, antialias)
        for made in (transform, plain):
            image = made({"image": IMAGE}, np.random.default_rng(seed))["image"]
            np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(("sampling", "expected"), [("inception", 0.370), ("torchvision", 0.433), ("byol", 0.518)])
def test_the_samplings_take_parts_of_another_size(sampling, expected):
    """On a photo of 500x375 with MAE's bounds; the figures are means over 40,000 draws."""
    rng = np.random.default_rng(1)
    boxes = np.array([geometry.CROP_BOXES[sampling](375, 500, rng, (0.08, 1.0)) for _ in range(4000)])
    share = boxes[:, 2] * boxes[:, 3] / (375 * 500)
    assert abs(share.mean() - expected) < 0.015
    assert (boxes[:, 0] + boxes[:, 2] <= 375).all() and (boxes[:, 1] + boxes[:, 3] <= 500).all() and boxes.min() >= 0


def test_the_largest_square_is_anywhere():
    """CLIP's crop: as high as a photo that lies, as wide as one that stands, and of smaller shares a square too."""
    rng = np.random.default_rng(1)
    lying, standing = ((375, 500), (500, 375))
    boxes = {
        shape: np.array([geometry.largest_crop_box(*shape, rng) for _ in range(300)]) for shape in (lying, standing)
    }
    for (height, width), found in boxes.items():
        assert (found[:, 2:] == 375).all()
        assert found[:, 0].max() == height - 375 or found[:, 0].max() > 115
        assert found[:, 1].max() == width - 375 or found[:, 1].max() > 115
        assert not found[:, :2].min(0).any() and (found[:, 2] + found[:, 0] <= height).all()
    part = geometry.largest_crop_box(375, 500, rng, (0.25, 0.25))
    assert part[2:] == (188, 188)


def test_older_names_mean_what_they_meant():
    assert supervised.build(8, crop="inception") == supervised.build(8)
    assert view.build(8, crop="uniform") == view.build(8) and view.build(8, crop="inception").sampling == "inception"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampling": "torchvison"}, "Did you mean 'torchvision'"),
        ({"crop": "inception", "sampling": "torchvision"}, "crop='random'"),
        ({"interpolation": "cubic"}, "Did you mean 'bicubic'"),
        ({"interpolation": "area", "antialias": False}, "area"),
        ({"interpolation": "bicubic", "antialias": 1}, "neither True nor False"),
        ({"interpolation": "bicubic", "rotate": 10.0}, "Rotation and shift"),
    ],
)
def test_bad_values_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        supervised.build(**{"image_size": 8, **wrong})
