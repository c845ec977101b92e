"""TAEF2 with its published weights, which its author's code computed latents and images with."""

import jax
import numpy as np
import pytest

import vit_jax
from tests.shared_golden import assert_close, golden_file
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.safetensors import SafetensorsFile
from vit_jax.checkpoints.source import open_source
from vit_jax.errors import UserError

WEIGHTS = golden_file("taef2.safetensors")
with np.load(golden_file("taef2_io.npz")) as _file:
    IMAGES, LATENTS, DECODED = (_file[name] for name in ("images", "latents", "decoded"))
LATENTS, DECODED = (x.transpose(0, 2, 3, 1) for x in (LATENTS, DECODED))


@pytest.fixture(scope="module")
def loaded():
    return vit_jax.load(WEIGHTS)


def test_its_sizes(loaded):
    sizes = {half: sum(x.size for x in jax.tree.leaves(loaded.params[half])) for half in ("encoder", "decoder")}
    assert sizes == {"encoder": 1_338_528, "decoder": 1_338_499}
    assert loaded.metadata["model"] == {"name": "tiny_autoencoder", "kwargs": {"variant": "taef2"}}


def test_latents_and_images_are_the_author_s(loaded):
    """In float32 on a CPU; decoded images are not clipped."""
    image = loaded.preprocess.normalize(IMAGES[:1])
    found = jax.jit(lambda v, x: loaded.model.apply(v, x))({"params": loaded.params}, image)
    assert_close(found["latents"], LATENTS[:1])
    assert_close(found["reconstruction"] * 0.5 + 0.5, DECODED[:1])
    picture = loaded.task.answers(
        {"reconstruction": np.clip(found["reconstruction"] * 0.5 + 0.5, 0, 1)}, loaded.fields
    )[0]
    error = np.square(picture.astype(float) - IMAGES[0]).mean()
    assert 10 * np.log10(255**2 / error) > 20  # it is the same photo; 20.5


def test_written_again_it_is_the_same(tmp_path):
    (file,) = export(open_source(WEIGHTS), tmp_path / "out", "taesd")
    theirs, ours = SafetensorsFile(WEIGHTS), SafetensorsFile(file)
    assert ours.shapes == theirs.shapes
    for name in ours.shapes:
        assert ours[name].astype(np.float16).tobytes() == theirs[name].tobytes(), name
    with pytest.raises(UserError, match="diffusers has no place for this tiny_autoencoder"):
        export(open_source(WEIGHTS), tmp_path / "other", "diffusers")
