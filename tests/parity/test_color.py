"""Colour operations and crops against torchvision's."""

import numpy as np
import pytest

from vit_jax.data import color, geometry

torch = pytest.importorskip("torch", reason="compares with torch")
pytest.importorskip("torchvision", reason="compares with torchvision")

from torchvision.transforms import RandomResizedCrop  # noqa: E402
from torchvision.transforms import functional as theirs  # noqa: E402

pytestmark = pytest.mark.oracle

RNG = np.random.default_rng(0)
IMAGES = {
    "noise": RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8),
    "dark": RNG.integers(0, 30, (24, 24, 3), dtype=np.uint8),
    "grey": np.repeat(RNG.integers(0, 256, (24, 24, 1), dtype=np.uint8), 3, axis=2),
}
# None whose products are whole numbers, where the last bit of a float32 decides about a level.
FACTORS = (0.0, 0.237, 0.771, 1.0, 1.833)


def compare(ours, theirs_result, exact, image):
    expected = theirs_result.numpy().transpose(1, 2, 0).astype(int)
    difference = np.abs(ours.astype(int) - expected)
    # One level where the libraries round the last bit of a float32 differently, and that seldom.
    assert difference.max() <= (0 if exact else 1) and (difference > 0).mean() < 0.1
    return image


def tensor(image):
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize(
    ("ours", "name", "values"),
    [
        (color.brightness, "adjust_brightness", FACTORS),
        (color.contrast, "adjust_contrast", FACTORS),
        (color.saturation, "adjust_saturation", FACTORS),
        (color.hue, "adjust_hue", (-0.5, -0.2, -0.01, 0.0, 0.1, 0.5)),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_color_distortion(image, ours, name, values):
    for value in values:
        compare(ours(image, value), getattr(theirs, name)(tensor(image), value), False, image)
    assert (ours(IMAGES["noise"], values[1]) != IMAGES["noise"]).mean() > 0.5


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_grey_and_solarize(image):
    compare(color.grayscale(image), theirs.rgb_to_grayscale(tensor(image), 3), False, image)
    compare(color.solarize(image), theirs.solarize(tensor(image), 128), True, image)


@pytest.mark.parametrize(("sigma", "size"), [(0.1, 3), (0.7, 5), (2.0, 23)])
def test_blur(sigma, size):
    image = IMAGES["noise"]
    compare(color.gaussian_blur(image, sigma, size), theirs.gaussian_blur(tensor(image), size, sigma), False, image)


@pytest.mark.parametrize("shape", [(100, 150), (30, 300)], ids=str)
def test_crop_boxes_have_the_same_distribution(shape):
    rng, area, aspect = np.random.default_rng(0), (0.08, 1.0), (3 / 4, 4 / 3)
    torch.manual_seed(0)
    picture = torch.zeros(3, *shape)
    boxes = np.array([geometry.torchvision_crop_box(*shape, rng, area, aspect) for _ in range(3000)], float)
    expected = np.array([RandomResizedCrop.get_params(picture, area, aspect) for _ in range(3000)], float)
    assert (boxes[:, 0] + boxes[:, 2]).max() <= shape[0] and (boxes[:, 1] + boxes[:, 3]).max() <= shape[1]
    np.testing.assert_allclose(boxes.mean(0), expected.mean(0), atol=0.03 * max(shape))
    np.testing.assert_allclose(boxes.std(0), expected.std(0), atol=0.03 * max(shape))
