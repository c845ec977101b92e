"""Pillow's resizing, to the bit."""

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.preprocess import Preprocess
from vit_jax.data.resample import FILTERS, resample

PILLOW = {name: Image.Resampling[name.upper()] for name in FILTERS}


def pillow(image, size, name):
    """In two steps: newer versions of Pillow go down tall images first, which rounds differently."""
    height, width = size
    wide = Image.fromarray(image).resize((width, image.shape[0]), PILLOW[name])
    return np.asarray(wide.resize((width, height), PILLOW[name]))


def noise(height, width, seed=0):
    """Noise with saturated areas, where a bicubic filter overshoots."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return np.where(image > 200, 255, np.where(image < 60, 0, image)).astype(np.uint8)


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("old", [(37, 53), (500, 333), (1, 9), (224, 224)])
@pytest.mark.parametrize("new", [(224, 224), (16, 40), (53, 37), (1, 1)])
def test_the_bits_of_pillow(name, old, new):
    image = noise(*old)
    np.testing.assert_array_equal(resample(image, new, name), pillow(image, new, name))


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (256, 256), (333, 1001), (64, 48)])
def test_short_side_and_crop_are_torchvision_s(shape):
    """Resize(248) and CenterCrop(224): the long side is truncated, the crop's offset rounded half to even."""
    image = noise(*shape)
    height, width = shape
    size = (int(248 * height / min(shape)), int(248 * width / min(shape)))
    resized = pillow(image, size, "bicubic")
    top, left = round((size[0] - 224) / 2.0), round((size[1] - 224) / 2.0)
    preprocess = Preprocess((224, 224), resize="short_side", resize_to=248, interpolation="bicubic")
    np.testing.assert_array_equal(preprocess.to_uint8(image), resized[top : top + 224, left : left + 224])


def test_squash():
    image = noise(30, 70)
    preprocess = Preprocess((32, 32), interpolation="bilinear")
    np.testing.assert_array_equal(preprocess.to_uint8(image), pillow(image, (32, 32), "bilinear"))
    assert preprocess == Preprocess.from_json(preprocess.to_json())
