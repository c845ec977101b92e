"""VQ-VAE: the loss by hand, gradients, outputs, metrics of a run, and what is said of a codebook that collapsed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.drawn import drawn
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.tasks import DataInfo, vqvae
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

MODEL = {"name": "vqvae", "width": 8, "hidden": 8, "depth": 1, "factor": 2, "latent_width": 4, "vocab_size": 16}
DATA = DataInfo((8, 8), ())


def config(**overrides):
    """Six steps on 8x8 digits."""
    values = tiny_config() | {"task": {"name": "vqvae"}, "model": MODEL | {"decay": 0.99, "restart_below": 1.0}}
    values |= {"evals": {}, "optim": {"name": "adamw", "learning_rate": 2e-3}}
    return override(values, {key.replace("__", "."): str(value) for key, value in overrides.items()})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("vqvae") / "run"
    train(build_experiment(config()), path, jax.devices()[:1])
    return path


def test_the_loss_by_hand():
    """Errors over the variance, and both terms of the quantiser; the gradient passes it as if it were not there."""
    task = vqvae.build(model=MODEL, data=DATA, variance=0.5)
    images = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    variables = drawn(task.init, jax.random.key(0), {"image": images})

    def run(params):
        given = {"params": params, "model_state": {}}
        return task.loss(given, {"image": images}, jax.random.key(0), jnp.int32(0))

    (value, (metrics, state)), slopes = jax.jit(jax.value_and_grad(run, has_aux=True))(variables["params"])
    found = jax.jit(task.model.apply)({"params": variables["params"]}, images)
    latents, codes = np.float64(found["latents"]), variables["params"]["quantizer"]["codebook"]["codes"]
    error = np.square(np.float64(found["reconstruction"]) - images).mean()
    gap = np.square(codes[found["indices"]].reshape(latents.shape) - latents).mean()
    np.testing.assert_allclose(value, error / 0.5 + 1.25 * gap, rtol=1e-5)
    averages = {name: float(total / weight) for name, (total, weight) in metrics.items()}
    np.testing.assert_allclose(averages["error"], error, rtol=1e-5)
    assert averages["codes_used"] == len(np.unique(found["indices"])) and state == {}
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(slopes["encoder"]))


@pytest.mark.long
def test_a_run_and_what_it_leaves(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "train/error", "train/codes_used", "train/perplexity"} <= rows[-1].keys()
    loaded = vit_jax.load(workdir)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    names = ("reconstruction", "original", "indices", "latents", "features")
    found = loaded.outputs({"image": pictures}, names)
    np.testing.assert_allclose(found["original"], pictures / 255, atol=1e-6)
    assert found["indices"].shape == (3, 16) and found["indices"].dtype == np.int32
    np.testing.assert_allclose(found["features"], found["latents"].mean((1, 2)), atol=1e-5)
    (answer,) = loaded.task.answers({"reconstruction": found["reconstruction"][:1]}, None)
    np.testing.assert_array_equal(answer, np.round(255 * found["reconstruction"][0]))
    assert found["reconstruction"].min() >= 0 and found["reconstruction"].max() <= 1


def test_maps_have_their_own_use_and_a_single_live_code_is_remarked():
    model = {**MODEL, "name": "vqvae2", "code_width": 4}
    del model["latent_width"]
    task = vqvae.build(model=model, data=DATA)
    used = task._usage(jnp.array([[1] * 4 + [2, 3] * 8]), (8, 8))
    averages = {name: float(total / weight) for name, (total, weight) in used.items()}
    assert averages.keys() == {f"{kind}/{i}" for kind in ("codes_used", "perplexity") for i in (0, 1)}
    (text,) = task.remarks(averages | {"loss": 1.0}).values()
    assert "one code of 16 of map 0 is in use (6.2 %)" in text
    assert task.remarks({"codes_used/0": 2.0, "codes_used/1": 2.0}) == {}


def test_a_model_without_codes_is_refused():
    for model in ({"name": "vae", "width": 8}, {"name": "vit", "variant": "mu/4", "num_classes": 2}):
        with pytest.raises(UserError, match="no codes|no tokens"):
            vqvae.build(model=model, data=DATA)
    with pytest.raises(UserError, match="do not divide into places"):
        vqvae.build(model=MODEL, data=DataInfo((9, 8), ()))


@pytest.mark.long
def test_a_generator_gets_codes_that_moving_averages_learned(tmp_path, workdir):
    """They are no parameters, and of the product: frozen in the generator, they give the same tokens."""
    values = config() | {"task": {"name": "autoregressive", "tokenizer": config()["model"]}}
    values |= {"model": {"name": "token_gpt", "width": 16, "depth": 1, "num_heads": 2}}
    values |= {"init_from": {"tokenizer": str(workdir)}, "optim": {"name": "adamw", "frozen": ["tokenizer/.*"]}}
    train(build_experiment(override(values, {"optim.learning_rate": "1e-3"})), tmp_path, jax.devices()[:1])
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    tokenizer, generator = vit_jax.load(workdir), vit_jax.load(tmp_path)
    wanted = tokenizer.outputs({"image": images}, ("indices",))["indices"]
    found = generator.outputs({"image": images, "label": np.zeros(5, np.int32)}, ("indices",))["indices"]
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(wanted)) > 1
