"""One definition of preprocessing: the same bits on the host and on the device, and through JSON."""

import hashlib
import json
import pickle

import jax
import numpy as np
import pytest

from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("statistics", [{}, IMAGENET, {"std": (1, 3, 7)}])
def test_numpy_and_jitted_jax_give_the_same_bits(statistics):
    preprocess = Preprocess((16, 16), **statistics)
    every_value = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    on_host = preprocess.normalize(every_value)
    on_device = np.asarray(jax.jit(preprocess.normalize)(every_value))
    assert on_host.dtype == on_device.dtype == np.float32
    np.testing.assert_array_equal(on_host.view(np.uint32), on_device.view(np.uint32))


@pytest.mark.parametrize("statistics", [{}, IMAGENET, {"std": (1, 3, 7)}])
def test_pixels_come_back(statistics):
    preprocess = Preprocess((16, 16), **statistics)
    every_value = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    for to_pixels in (preprocess.to_pixels, jax.jit(preprocess.to_pixels)):
        back = np.asarray(to_pixels(preprocess.normalize(every_value)))
        assert back.dtype == np.uint8
        np.testing.assert_array_equal(back, every_value)


def test_what_no_pixel_is_becomes_the_nearest():
    images = np.float32([-3, -1, -0.996, 0.6, 1, 7])[:, None].repeat(3, -1)
    preprocess = Preprocess((1, 6))
    np.testing.assert_array_equal(preprocess.to_pixels(images)[:, 0], [0, 0, 1, 204, 255, 255])
    np.testing.assert_allclose(preprocess.denormalize(images)[:, 0], [0, 0, 0.51, 204, 255, 255], atol=1e-4)


def test_default_range():
    made = Preprocess((1, 2)).normalize(np.array([[[0] * 3, [255] * 3]], np.uint8))
    np.testing.assert_array_equal(made, [[[-1] * 3, [1] * 3]])


def test_mean_and_standard_deviation():
    made = Preprocess((9, 9), **IMAGENET)(noise(9, 9))
    expected = (noise(9, 9) - np.array(IMAGENET["mean"])) / np.array(IMAGENET["std"])
    np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(50, 90), (90, 50), (7, 300), (16, 24), (24, 16), (5, 5), (31, 47)])
@pytest.mark.parametrize("options", [{}, {"resize": "short_side"}, {"resize": "short_side", "resize_to": 32}])
def test_any_shape_gives_the_image_size(shape, options):
    made = Preprocess((16, 24), **options).to_uint8(noise(*shape))
    assert made.shape == (16, 24, 3) and made.dtype == np.uint8 and made.flags.c_contiguous


def test_squash_shows_everything_and_short_side_the_middle():
    left_white = np.zeros((32, 64, 3), np.uint8)
    left_white[:, :16] = 255
    squashed = Preprocess((8, 8)).to_uint8(left_white)
    assert (squashed[:, :2] == 255).all() and (squashed[:, 2:] == 0).all()
    for resize_to in (None, 8):
        cropped = Preprocess((8, 8), resize="short_side", resize_to=resize_to).to_uint8(left_white)
        assert (cropped == 0).all()


def test_resize_to_decides_how_much_is_cut_off():
    bordered = np.full((64, 64, 3), 255, np.uint8)
    bordered[8:-8, 8:-8] = 0
    assert (Preprocess((48, 48), resize="short_side", resize_to=64).to_uint8(bordered) == 0).all()
    assert (Preprocess((48, 48), resize="short_side", resize_to=48).to_uint8(bordered)[0] == 255).all()


def test_json_round_trip():
    preprocess = Preprocess((16, 24), resize="short_side", resize_to=32, **IMAGENET)
    restored = Preprocess.from_json(json.loads(json.dumps(preprocess.to_json())))
    assert restored == preprocess and hash(restored) == hash(preprocess)
    assert pickle.loads(pickle.dumps(preprocess)) == preprocess


def test_json_of_older_and_newer_versions():
    assert Preprocess.from_json({"image_size": [8, 8]}) == Preprocess((8, 8))
    with pytest.raises(UserError, match="Did you mean 'resize'"):
        Preprocess.from_json({"image_size": [8, 8], "resizes": "squash"})
    with pytest.raises(UserError, match="image_size"):
        Preprocess.from_json({})


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"resize": "squish"},
        {"resize_to": 32},
        {"resize": "short_side", "resize_to": 8},
        {"mean": (0.5,)},
        {"std": (1, 0, 1)},
    ],
)
def test_bad_values_are_refused(wrong):
    with pytest.raises(UserError):
        Preprocess(**{"image_size": (16, 16), **wrong})


@pytest.mark.parametrize("options", [{"resize": "short_side"}, {"resize": "short_side", "interpolation": "bicubic"}])
def test_what_resizing_would_make_too_large_is_refused(options):
    with pytest.raises(UserError, match="of 3000x1 pixels would be resized to 672000x224, more than 100 megapixels"):
        Preprocess(224, **options).to_uint8(np.zeros((1, 3000, 3), np.uint8))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"resize": "squash", "resize_to": None, "interpolation": "area"}, "fd3588e846f1694a"),
        ({"resize": "short_side", "resize_to": None, "interpolation": "area"}, "8c6f810760c15c51"),
        (
            {"image_size": [24, 24], "resize": "short_side", "resize_to": 27, "interpolation": "area"},
            "5d93ac35b01f4374",
        ),
        (
            {"image_size": [24, 24], "resize": "short_side", "resize_to": 27, "interpolation": "bicubic"},
            "a12606f2879c2265",
        ),
        ({"resize": "short_side", "resize_to": None, "interpolation": "bilinear"}, "b1266ece28204fc2"),
        ({"resize": "squash", "interpolation": "bicubic"}, "10c79b7056efd9e0"),
    ],
    ids=str,
)
def test_what_format_1_stored_gives_the_same_pixels(stored, expected):
    """Digests of the pixels that the first release made."""
    stored = {"image_size": [24, 32], "mean": [127.5] * 3, "std": [127.5] * 3} | stored
    digest = hashlib.sha256()
    for seed, shape in enumerate([(61, 97), (97, 61), (30, 31), (20, 200)]):
        image = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
        digest.update(Preprocess.from_json(stored).to_uint8(image).tobytes())
    assert digest.hexdigest()[:16] == expected
    assert set(Preprocess.from_json(stored).to_json()) <= {*stored, "resize_to", "interpolation"}


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"resize": "short_side", "resize_to": (20, 20)}, "resize_to"),
        ({"resize": "cover", "resize_to": 20}, "resize_to"),
        ({"resize": "cover", "resize_to": (20, 15)}, "smaller"),
        ({"resize_to": (20, 15)}, "smaller"),
        ({"trim": (1,)}, "trim"),
        ({"crop": "ceil"}, "crop"),
        ({"anchor": "left"}, "no anchor named 'left'"),
        ({"anchor": "corner"}, "anchor='corner' goes with resize='pad', not 'squash'"),
        ({"anchor": "corner", "resize": "pad", "resize_to": (16, 20)}, "larger than image_size"),
    ],
    ids=str,
)
def test_bad_geometry_is_refused(options, wrong):
    with pytest.raises(UserError, match=wrong):
        Preprocess((16, 16), **options)


def test_padding_and_trimming():
    wide = np.full((10, 40, 3), 200, np.uint8)
    made = Preprocess((20, 20), resize="pad", interpolation="bicubic", mean=(10, 20, 30)).to_uint8(wide)
    assert (made[:7] == [10, 20, 30]).all() and (made[8:12] == 200).all() and (made[13:] == [10, 20, 30]).all()
    plain = Preprocess((20, 20), interpolation="bicubic").to_uint8(noise(31, 33))
    trimmed = Preprocess((14, 14), interpolation="bicubic", trim=(6, 6))
    np.testing.assert_array_equal(trimmed.to_uint8(noise(31, 33)), plain[:14, :14])
    assert trimmed.resized(28).trim == (0, 0)
    assert Preprocess((14, 14), resize_to=(16, 20)).resized((28, 7)).resize_to == (32, 10)


@pytest.mark.parametrize(
    # As segment_anything's ResizeLongestSide.get_preprocess_shape says for 1024.
    "shape, wanted", [((1000, 1500), (683, 1024)), ((1001, 2048), (501, 1024)), ((2048, 1003), (1024, 502)), ((3, 700), (4, 1024))]
)  # fmt: skip
def test_padding_in_the_corner_is_that_of_segment_anything(shape, wanted):
    preprocess = Preprocess((1024, 1024), resize="pad", anchor="corner", mean=(123.675, 116.28, 103.53))
    made = preprocess.to_uint8(np.full((*shape, 3), 200, np.uint8))
    padding = (made == [124, 116, 104]).all(-1)
    assert made.shape == (1024, 1024, 3) and (made[: wanted[0], : wanted[1]] == 200).all()
    assert padding[wanted[0] :].all() and padding[:, wanted[1] :].all()
    # Where a point of the image is: SAM's apply_coords multiplies by new / old of each side.
    [moved], [seen] = preprocess.placement(shape).points(np.array([[shape[1] / 3, shape[0] / 2]]))
    np.testing.assert_allclose(moved, [wanted[1] / 3, wanted[0] / 2], rtol=1e-12)
    assert seen
    again = Preprocess.from_json(preprocess.to_json())
    assert again == preprocess and again.resized(64).anchor == "corner"
    assert "anchor" not in Preprocess((8, 8), resize="pad").to_json()


def test_padding_in_the_corner_is_the_mean_exactly():
    """From NumPy and from JAX, in a batch or not; only where it was padded, not where a photo has the same colour."""
    preprocess = Preprocess(
        (8, 8), resize="pad", anchor="corner", mean=(123.675, 116.28, 103.53), std=(58.4, 57.1, 57.4)
    )
    photo = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    photo[1, 1:3] = (124, 116, 104)
    pixels = preprocess.to_uint8(photo)
    found = preprocess.normalize(pixels)
    np.testing.assert_array_equal(found[6:], 0)
    inside = (pixels.astype(np.float32) - np.float32(preprocess.mean)) * (np.float32(1) / np.float32(preprocess.std))
    np.testing.assert_array_equal(found[:6], inside[:6])
    assert np.abs(inside[6:]).min() > 0.004
    tall = preprocess.to_uint8(photo.swapaxes(0, 1))
    both = jax.jit(preprocess.normalize)(np.stack([pixels, tall]))
    np.testing.assert_array_equal(both[0], found)
    np.testing.assert_array_equal(both[1, :, 6:], 0)
    np.testing.assert_array_equal(preprocess(photo), found)
