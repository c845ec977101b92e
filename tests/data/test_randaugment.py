"""RandAugment, operation by operation, against Pillow where it means the same and independent formulas elsewhere."""

import itertools

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageOps

from vit_jax.data.randaugment import OPERATIONS, RandAugment
from vit_jax.data.transforms import supervised
from vit_jax.errors import UserError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (37, 50, 3), dtype=np.uint8)
# Smooth and of low contrast, each channel in another range.
SOFT = (np.add.outer(np.arange(37), np.arange(50))[..., None] * [1.0, 1.7, 0.4] + [30, 20, 100]).astype(np.uint8)
FLAT = np.full((20, 30, 3), 77, np.uint8)
IMAGES = {"noise": NOISE, "soft": SOFT, "flat": FLAT}
images = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)


def apply(name, image, magnitude=10.0, sign=1, **options):
    before = image.copy()
    made = RandAugment(1, magnitude, **options).apply(name, image, sign, place=(0.5, 0.25))
    assert made.shape == image.shape and made.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    return made


def pillow(function, image, *arguments):
    return np.asarray(function(Pillow.fromarray(image), *arguments))


def assert_within_one_level(a, b):
    assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


@images
def test_operations_that_are_pillows(image):
    np.testing.assert_array_equal(apply("equalize", image), pillow(ImageOps.equalize, image))
    np.testing.assert_array_equal(apply("invert", image), pillow(ImageOps.invert, image))
    assert_within_one_level(apply("autocontrast", image), pillow(ImageOps.autocontrast, image))
    for magnitude, bits in ((2.5, 1), (10, 4), (15, 6), (20, 8)):
        np.testing.assert_array_equal(apply("posterize", image, magnitude), pillow(ImageOps.posterize, image, bits))
    for magnitude, threshold in ((0, 0), (4, 102), (9, 230), (10, 256), (15, 384)):
        np.testing.assert_array_equal(apply("solarize", image, magnitude), pillow(ImageOps.solarize, image, threshold))


@images
@pytest.mark.parametrize("magnitude", [0, 3, 5, 10, 15])
def test_enhancements_that_are_pillows(image, magnitude):
    factor = 0.18 * magnitude + 0.1
    for name, enhancer, tolerance in (("brightness", ImageEnhance.Brightness, 1), ("color", ImageEnhance.Color, 4),
                                      ("sharpness", ImageEnhance.Sharpness, 4)):  # fmt: skip
        # What is blended may differ by a level of rounding, which extrapolating multiplies.
        expected = np.asarray(enhancer(Pillow.fromarray(image)).enhance(factor)).astype(int)
        assert np.abs(apply(name, image, magnitude).astype(int) - expected).max() <= tolerance, name
    expected = np.asarray(ImageEnhance.Contrast(Pillow.fromarray(image)).enhance(factor)).astype(int)
    assert np.abs(apply("contrast", image, magnitude, contrast="mean").astype(int) - expected).max() <= 4


def test_factor_one_is_the_image():
    for name in ("brightness", "color", "contrast", "sharpness"):
        np.testing.assert_array_equal(apply(name, NOISE, 5), NOISE)


def test_grey_is_tensorflows():
    """floor(luma * 255.5 / 255) with four-digit weights that sum to 0.9999."""
    exact = np.floor(NOISE.astype(float) @ [0.2989, 0.5870, 0.1140] * 255.5 / 255)
    faded = apply("color", NOISE, 0).astype(float)
    np.testing.assert_array_less(np.abs(faded - np.floor(exact[..., None] + 0.1 * (NOISE - exact[..., None]))), 1.5)
    assert (apply("color", FLAT, 0) == 77).all()


def test_contrast_blends_with_the_number_of_pixels():
    big = np.tile(NOISE, (4, 4, 1))
    grey = np.floor(big.shape[0] * big.shape[1] / 256)
    expected = np.clip(grey + 1.9 * (big - grey), 0, 255)
    assert np.abs(apply("contrast", big) - np.floor(expected)).max() <= 1
    huge = np.tile(NOISE, (8, 8, 1))
    assert np.abs(apply("contrast", huge, 0) - np.floor(255 + 0.1 * (huge - 255.0))).max() <= 1


def test_solarize_add():
    expected = np.where(NOISE < 128, np.minimum(NOISE.astype(int) + 77, 255), NOISE)
    np.testing.assert_array_equal(apply("solarize_add", NOISE, 7), expected)


def test_magnitude_zero_is_not_the_identity():
    np.testing.assert_array_equal(apply("solarize", NOISE, 0), 255 - NOISE)
    np.testing.assert_array_equal(apply("posterize", NOISE, 0), NOISE // 128 * 128)
    np.testing.assert_array_equal(apply("brightness", NOISE, 0), np.floor(NOISE * np.float32(0.1)))


def sampled(image, to_input):
    """The pixel nearest to to_input(x, y), grey outside; NaN where two are as near."""
    height, width = image.shape[:2]
    made = np.full(image.shape, 128.0)
    for y, x in itertools.product(range(height), range(width)):
        u, v = to_input(x, y)
        if min(abs(u % 1 - 0.5), abs(v % 1 - 0.5)) < 0.01:
            made[y, x] = np.nan
        elif 0 <= round(u) < width and 0 <= round(v) < height:
            made[y, x] = image[round(v), round(u)]
    return made


@pytest.mark.parametrize("sign", [1, -1])
def test_geometry(sign):
    angle, shear = np.deg2rad(sign * 18), sign * 0.18
    c, s, cx, cy = np.cos(angle), np.sin(angle), 24.5, 18.0
    maps = {
        "rotate": lambda x, y: (cx + c * (x - cx) - s * (y - cy), cy + s * (x - cx) + c * (y - cy)),
        "shear_x": lambda x, y: (x + shear * y, y),
        "shear_y": lambda x, y: (x, y + shear * x),
        "translate_x": lambda x, y: (x + sign * 12, y),
        "translate_y": lambda x, y: (x, y + sign * 12),
    }
    for name, to_input in maps.items():
        expected = sampled(NOISE, to_input)
        known = ~np.isnan(expected)
        assert known.mean() > 0.9
        np.testing.assert_array_equal(apply(name, NOISE, 6, sign, translate=20)[known], expected[known], err_msg=name)
    # Counter-clockwise as the image is seen.
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[20, 35] = 255
    row = np.argwhere(apply("rotate", dot, 10, sign)[..., 0] == 255).mean(0)[0]
    assert (row < 20) == (sign == 1)


@pytest.mark.parametrize("side", [32, 48, 96, 224])
def test_small_images_are_not_blanked(side):
    """By their pixels at 224, TensorFlow's translations and cutouts leave 34, 29 and 23% of the small ones grey."""
    image = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    scaled, absolute = RandAugment(2, 15), RandAugment(2, 15, translate=100, cutout=40)
    blank = {"scaled": 0, "absolute": 0}
    for seed in range(150 if side < 224 else 40):
        for name, policy in (("scaled", scaled), ("absolute", absolute)):
            made = policy(image, np.random.default_rng(seed))
            blank[name] += bool((made == made[0, 0]).all())
            if side == 224 and name == "absolute":
                np.testing.assert_array_equal(made, scaled(image, np.random.default_rng(seed)))
    assert blank["scaled"] <= 3
    assert blank["absolute"] > 25 or side >= 96


@pytest.mark.parametrize(("height", "width"), [(112, 224), (224, 112)])
def test_distances_are_shares_of_the_image(height, width):
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    share = 0.5
    down, right = (round(100 * side / 224 * share) for side in (height, width))
    np.testing.assert_array_equal(apply("translate_x", image, 5)[:, : width - right], image[:, right:])
    np.testing.assert_array_equal(apply("translate_y", image, 5)[: height - down], image[down:])
    assert ((apply("cutout", image, 5) == 128).all(-1).sum(0) > 0).sum() == 2 * int(40 * 112 / 224 * share)


def test_cutout():
    expected = NOISE.copy()
    expected[18 - 8 : 18 + 8, 12 - 8 : 12 + 8] = 128
    np.testing.assert_array_equal(apply("cutout", NOISE, 2, cutout=40), expected)
    expected[0:37, 0 : 12 + 20] = 128
    np.testing.assert_array_equal(apply("cutout", NOISE, 5, cutout=40), expected)
    np.testing.assert_array_equal(apply("cutout", NOISE, 0), NOISE)


def test_all_operations_are_drawn_alike(monkeypatch):
    drawn = []
    monkeypatch.setattr(RandAugment, "apply", lambda self, name, image, sign, **_: drawn.append((name, sign)) or image)
    rng = np.random.default_rng(0)
    for _ in range(1600):
        RandAugment(2, 10)(NOISE, rng)
    counts = [sum(name == n for n, _ in drawn) for name in OPERATIONS]
    assert len(drawn) == 3200 and min(counts) > 140 and max(counts) < 260
    assert 1450 < sum(sign == 1 for _, sign in drawn) < 1750


def test_drawn_magnitudes_and_probability(monkeypatch):
    """DeiT's: half of the operations, magnitudes around 9 and at most 10."""
    drawn = []
    monkeypatch.setattr(RandAugment, "apply", lambda self, *_, magnitude, **__: drawn.append(magnitude) or NOISE)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        RandAugment(2, 9, magnitude_std=0.5, probability=0.5)(NOISE, rng)
    assert 920 < len(drawn) < 1080
    assert abs(np.mean(drawn) - 9) < 0.05 and 0.45 < np.std(drawn) < 0.53
    assert max(drawn) == 10.0 and 0 < np.mean(np.equal(drawn, 10.0)) < 0.05


def test_a_magnitude_for_one_operation():
    for name in ("rotate", "posterize", "brightness"):
        np.testing.assert_array_equal(
            RandAugment(1, 9).apply(name, NOISE, magnitude=4.0), RandAugment(1, 4).apply(name, NOISE)
        )


def test_as_an_option_of_the_transform():
    plain = supervised.build(32)
    augmented = supervised.build(32, randaugment={"layers": 2, "magnitude": 10})
    example = {"image": NOISE, "label": 1}
    first = augmented(example, np.random.default_rng(1))
    np.testing.assert_array_equal(first["image"], augmented(example, np.random.default_rng(1))["image"])
    rng = np.random.default_rng(1)
    view = plain(example, rng)["image"]
    np.testing.assert_array_equal(first["image"], RandAugment(2, 10)(view, rng))
    for size in (1, 2, 9):
        for policy in ({"layers": 3, "magnitude": 20}, {"policy": "timm", "layers": 9, "probability": 1.0}):
            tiny = supervised.build(size, randaugment=policy)
            assert tiny(example, np.random.default_rng(size))["image"].shape == (size, size, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": 0, "magnitude": 10}, "layers=0"),
        ({"layers": 2, "magnitude": 21}, "from 0 to 20"),
        ({"layers": 2, "magnitude": 9, "operations": ["rotat"]}, "Did you mean 'rotate'"),
        ({"layers": 2, "magnitude": 9, "operations": []}, "not a list"),
        ({"layers": 2, "magnitude": 9, "contrast": "men"}, "Did you mean 'mean'"),
        ({"layers": 2, "magnitude": 9, "magnitude_std": -1}, "magnitude_std=-1"),
        ({"layers": 2, "magnitude": 9, "probability": 2}, "probability=2"),
        ({"layers": 2, "magnitud": 9}, "Did you mean 'magnitude'"),
        ({"layers": 2}, "randaugment.magnitude' is missing"),
        ({"policy": "tim"}, "Did you mean 'timm'"),
        ({"policy": "timm", "magnitude": 11}, "from 0 to 10"),
        ({"policy": "timm", "fill": (124, 116)}, "randaugment.fill is"),
        ({"policy": "timm", "cutout": 40}, "randaugment.cutout"),
    ],
)
def test_bad_values_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        supervised.build(32, randaugment=wrong)
