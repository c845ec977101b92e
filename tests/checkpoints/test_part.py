"""One tower of a checkpoint, and texts and images as vectors."""

import jax
import numpy as np
import pytest

import vit_jax
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.commands.main import main


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("run"), tiny_config())


def test_of_an_image_model_the_encoder_is_all_but_the_head(workdir):
    whole, tower = vit_jax.load(workdir), vit_jax.load(workdir, part="encoder")
    assert set(whole.params) == {"encoder", "head"} and set(tower.params) == {"encoder"}
    jax.tree.map(np.testing.assert_array_equal, tower.params["encoder"], whole.params["encoder"])
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(tower.features(images), whole.features(images), rtol=1e-5)
    assert "logits" not in tower.outputs(images) and tower.metadata["task"]["name"] == "features"
    assert vit_jax.load(workdir, part="encoder", image_size=16).params["encoder"]["pos_embedding"].shape == (4, 4, 32)


def test_a_part_that_is_not_there(workdir, tmp_path, capsys):
    for part, message in (("text", "has no part 'text'. It has 'encoder'"), ("encodr", "Did you mean 'encoder'")):
        with pytest.raises(UserError, match=message):
            vit_jax.load(workdir, part=part)
    argv = ["convert", str(workdir), str(tmp_path / "out"), "--to", "timm"]
    assert main([*argv, "--part", "text"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*argv, "--part", "encoder"]) == 0
    assert set(vit_jax.load(tmp_path / "out").params) == {"encoder"}


def test_what_has_no_texts_or_no_embedding_says_so(workdir):
    loaded = vit_jax.load(workdir)
    image = np.zeros((8, 8, 3), np.uint8)
    for call, message in (
        (lambda: loaded.tokenize("a cat"), "reads no texts"),
        (lambda: loaded.embed_texts(["a cat"]), "reads no texts"),
        (lambda: loaded.embed_images([image]), "does not give 'image_embedding'"),
        (lambda: loaded.embed_images([]), "nothing to embed"),
        (lambda: loaded.embed_images([image], batch_size=0), "batch_size is 0"),
    ):
        with pytest.raises(UserError, match=message):
            call()
