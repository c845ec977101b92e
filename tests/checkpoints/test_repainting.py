"""Parts of photos drawn anew: what stays, what a sample depends on, and generators that cannot do it."""

import numpy as np
import pytest

import vit_jax
from tests.tasks import test_autoregressive as tokenwise
from tests.tasks import test_maskgit as masked
from tests.tiny import untrained
from vit_jax import UserError
from vit_jax.checkpoints.repainting import box_region, repainted


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return vit_jax.load(untrained(tmp_path_factory.mktemp("run"), masked.config(), signed=True))


def photos(count=3):
    return list(np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8))


def test_regions():
    region = box_region((4, 6), (1, 0, 3, 2))
    assert np.argwhere(region).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert (box_region((4, 6), (1, 0, 3, 2), outside=True) == ~region).all()
    with pytest.raises(UserError, match="is not in an image of 4x6"):
        box_region((4, 6), (1, 0, 7, 2))


@pytest.mark.long
def test_what_is_outside_of_the_region_stays(generator):
    given, regions = photos(), np.stack([box_region((4, 4), (0, 0, 2, 3))] * 3)
    found = repainted(generator, given, regions, prompts=["1", "", "2"], samples=2, steps=3)
    assert found.images.shape == (6, 4, 4, 3) and found.conditions["label"].tolist() == [1, 1, 10, 10, 2, 2]
    for number, image in enumerate(found.images):
        photo = given[number // 2]
        assert (image[~regions[0]] == photo[~regions[0]]).all() and (image[regions[0]] != photo[regions[0]]).any()
    # By itself, in another batch, a photo's samples are the same.
    alone = repainted(generator, given[2:], regions[2:], prompts=["2"], samples=2, steps=3, batch_size=1)
    np.testing.assert_array_equal(alone.images, found.images[4:])
    # Not pasted, the rest is what the tokenizer makes of it.
    drawn = repainted(generator, given, regions, prompts=["1", "", "2"], samples=2, steps=3, pasted=False)
    np.testing.assert_array_equal(drawn.images[:, regions[0]], found.images[:, regions[0]])
    assert (drawn.images[0] != found.images[0]).any()


def test_bad_input(generator, tmp_path):
    regions = np.ones((3, 4, 4), bool)
    for given, said in (
        ({"regions": regions[:2]}, "3 photos of 4x4 pixels"),
        ({"prompts": ["1"]}, "1 prompts for 3 photos"),
        ({"samples": 0}, "0 samples of 3 photos"),
    ):
        with pytest.raises(UserError, match=said):
            repainted(generator, photos(), **{"regions": regions, "steps": 2, **given})
    raster = vit_jax.load(untrained(tmp_path / "raster", tokenwise.config()))
    with pytest.raises(UserError, match="'autoregressive' draws whole images alone"):
        repainted(raster, photos(), regions)
