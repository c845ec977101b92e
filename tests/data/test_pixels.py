"""Images in memory: Pillow's, grey, transparent and float ones are the same pixels as the file would be."""

import io

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.decode import decode
from vit_jax.data.pixels import as_rgb
from vit_jax.data.preprocess import Preprocess

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def test_arrays():
    assert as_rgb(RGB) is RGB
    grey = RGB[..., 0]
    for image in (grey, grey[..., None]):
        np.testing.assert_array_equal(as_rgb(image), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(as_rgb(RGB.astype(np.float32) / 255), RGB)
    clear = np.concatenate([RGB, np.zeros((6, 9, 1), np.uint8)], -1)
    assert (as_rgb(clear) == 255).all()
    assert Preprocess((4, 4))(grey).shape == (4, 4, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
def test_pillow_images_are_as_their_files(mode):
    pillow = pytest.importorskip("PIL.Image")
    image = pillow.fromarray(RGB).convert(mode)
    if mode == "RGBA":
        image.putalpha(pillow.fromarray(RGB[..., 0]))
    file = io.BytesIO()
    image.convert("RGB" if mode == "CMYK" else mode).save(file, "PNG")
    np.testing.assert_array_equal(as_rgb(image), decode(file.getvalue()))


def test_pillow_images_are_turned_upright():
    pillow = pytest.importorskip("PIL.Image")
    image, file = pillow.fromarray(RGB), io.BytesIO()
    exif = pillow.Exif()
    exif[0x0112] = 6
    image.save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(as_rgb(pillow.open(file)), decode(file.getvalue()))
    assert as_rgb(pillow.open(file)).shape == (9, 6, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB.astype(np.float32), r"from 0 to 255|values from"),
        (np.full((2, 2, 3), np.nan), "floats from 0 to 1"),
        (RGB.astype(np.int64), "this is int64"),
        (RGB > 3, "this is bool"),
        (RGB.transpose(2, 0, 1), "channels last"),
        (RGB[None], "one image at a time"),
        (np.zeros((0, 3, 3), np.uint8), r"\[0, 3, 3\]"),
        ("a list", "could not be read"),
        (None, "An image is"),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(UserError, match=message):
        Preprocess((4, 4)).to_uint8(image)
