"""3-Augment: one of three, then the jitter, of a crop that everything follows."""

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data import color
from vit_jax.data.transforms import three_augment

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
WHOLE = {"area": (1, 1), "aspect": (1.25, 1.25), "image_size": (40, 50), "flip": 0.0}


def views(count=300, **options):
    transform = three_augment.build(**{"image_size": (40, 50), **options})
    return [transform({"image": IMAGE, "label": 3}, np.random.default_rng(i)) for i in range(count)]


def test_each_view_is_grey_solarised_or_blurred():
    kinds = np.zeros(3, int)
    for view in views(jitter=0.0, **WHOLE):
        image = view["image"]
        grey, solarised = (np.array_equal(image, of(IMAGE)) for of in (color.grayscale, color.solarize))
        assert view["label"] == 3 and grey + solarised <= 1
        # A blur keeps the mean and takes some of the variance.
        if not grey and not solarised:
            assert abs(image.mean() - IMAGE.mean()) < 3 and image.std() <= IMAGE.std()
        kinds[0 if grey else 1 if solarised else 2] += 1
    assert kinds.min() > 70


def test_the_jitter_keeps_the_choice_and_moves_the_colours():
    for plain, jittered in zip(views(40, jitter=0.0, **WHOLE), views(40, jitter=0.3, **WHOLE), strict=True):
        assert not np.array_equal(plain["image"], jittered["image"])
        grey = np.ptp(plain["image"].astype(int), axis=-1).max() == 0
        assert (np.ptp(jittered["image"].astype(int), axis=-1).max() == 0) == grey
        assert 0.6 < (jittered["image"].mean() + 1) / (plain["image"].mean() + 1) < 1.4


def test_a_generator_decides_everything():
    first, again = views(5, image_size=16), views(5, image_size=16)
    for a, b in zip(first, again, strict=True):
        assert a["image"].shape == (16, 16, 3)
        np.testing.assert_array_equal(a["image"], b["image"])
    # What is drawn does not depend on what is switched on.
    flipped, straight = (views(20, jitter=0.0, **{**WHOLE, "flip": flip}) for flip in (1.0, 0.0))
    for a, b in zip(flipped, straight, strict=True):
        np.testing.assert_allclose(a["image"][:, ::-1], b["image"], atol=1)


def test_mistakes_get_a_sentence():
    with pytest.raises(UserError, match="no sampling named 'torchvison'.*torchvision"):
        three_augment.build(8, sampling="torchvison")
