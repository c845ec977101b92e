"""Reconstructions: what is shown is the image, what is predicted is the decoder's, and other models have none."""

import dataclasses

import jax
import numpy as np
import pytest

import vit_jax
from tests.tasks.test_mae import mae_config
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.inspection import reconstruction
from vit_jax.nn.patch import patchify

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mae") / "run"
    return vit_jax.load(untrained(workdir, mae_config()))


def patches_of(images):
    return np.asarray(patchify(images, (2, 2))).reshape(len(images), 16, 12)


@pytest.mark.long
def test_what_was_seen_is_the_image_and_the_rest_is_predicted(loaded):
    found = reconstruction.reconstruct(loaded, IMAGES, seed=1)
    original, masked, completed = map(patches_of, (IMAGES, found.masked, found.completed))
    hidden = (masked == 127).all(-1)
    assert (hidden.sum(1) == 12).all() and len({tuple(row) for row in hidden}) == 3
    np.testing.assert_array_equal(masked[~hidden], original[~hidden])
    np.testing.assert_array_equal(completed[~hidden], original[~hidden])
    assert (completed[hidden] != original[hidden]).any(-1).all()
    again = reconstruction.reconstruct(loaded, IMAGES, seed=2)
    assert (again.masked != found.masked).any()


@pytest.mark.parametrize("normalize", [True, False])
def test_predictions_are_brought_back_to_pixels(loaded, normalize, monkeypatch):
    """A decoder that is always right gives the image, whichever units it predicts in."""
    from vit_jax.tasks.mae import targets

    model = loaded.model.clone(normalize_pixels=normalize)

    class Right(type(model)):
        def reconstruct(self, images, order, *, train=False):
            return targets(images, (2, 2), normalize)

    right = Right(model.encoder, model.decoder, model.pooling, model.mask_ratio, normalize)
    found = reconstruction.reconstruct(
        dataclasses.replace(loaded, task=dataclasses.replace(loaded.task, model=right)), IMAGES
    )
    np.testing.assert_allclose(found.completed.astype(int), IMAGES.astype(int), atol=1)


def test_a_flat_patch_stays_flat(loaded):
    flat = np.full((1, 8, 8, 3), 200, np.uint8)
    np.testing.assert_array_equal(reconstruction.reconstruct(loaded, flat).completed, flat)


def test_other_models_have_no_decoder(tmp_path, loaded):
    untrained(tmp_path / "run", tiny_config())
    with pytest.raises(UserError, match="no decoder to reconstruct images with"):
        reconstruction.reconstruct(vit_jax.load(tmp_path / "run"), IMAGES)
    without = dataclasses.replace(
        loaded, variables={"params": {"encoder": loaded.params["encoder"]}, "model_state": {}}
    )
    assert reconstruction.can_reconstruct(loaded) and not reconstruction.can_reconstruct(without)
    assert jax.tree.leaves(loaded.params["decoder"])
