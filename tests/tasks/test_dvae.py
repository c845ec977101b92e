"""The discrete VAE: the bound by hand in float64, its schedules, what a checkpoint gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.tasks import DataInfo, dvae
from vit_jax.training.config import override

MODEL = {"name": "dvae", "hidden": 4, "num_blocks": 1, "num_codes": 16, "code_width": 4}
TASK = {"name": "dvae", "tau_steps": 10, "kl_steps": 4}


def config(**overrides):
    """Six steps on 8x8 digits, of which each is one code."""
    values = tiny_config() | {"task": TASK, "model": MODEL, "evals": {}}
    values |= {"optim": {"name": "adamw", "learning_rate": 2e-3}}
    return override(values, {key.replace("__", "."): str(value) for key, value in overrides.items()})


@pytest.mark.long
def test_the_bound_by_hand():
    """With the draws that the model makes: pixels by their density, codes by their divergence from equal ones."""
    task = dvae.build(model=MODEL, data=DataInfo((8, 16), ()), tau_steps=10, kl_steps=4)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 8, 16, 3)).astype(np.float32)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(task.init, jax.random.key(0), {"image": images})["params"]
    params = jax.tree.map(lambda x: (0.4 * rng.normal(size=x.shape)).astype(np.float32), shapes)
    key, step = jax.random.key(1), 3
    tau = 1 / 16 + (1 - 1 / 16) * (1 + np.cos(np.pi * step / 10)) / 2
    weight = 6.6 * (1 - np.cos(np.pi * step / 4)) / 2

    @jax.jit
    def run(params):
        variables, batch = {"params": params, "model_state": {}}, {"image": images}
        found = task.model.apply({"params": params}, images, train=True, tau=tau, rngs={"dropout": key})
        return task.loss(variables, batch, key, jnp.int32(step)), found

    (value, (metrics, state)), found = run(params)
    found = jax.tree.map(np.float64, found)

    x = 0.8 * (np.float64(images) / 2 + 0.5) + 0.1
    scale = np.exp(found["log_scale"])
    density = np.exp(-np.abs(np.log(x / (1 - x)) - found["location"]) / scale) / (2 * scale * x * (1 - x))
    shares = np.exp(found["code_logits"])
    shares /= shares.sum(-1, keepdims=True)
    kl = (shares * np.log(shares * 16)).sum(-1)
    nll = -np.log(density).mean((1, 2, 3))
    expected = nll + weight * kl.sum((1, 2)) / (8 * 16 * 3)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
    averages = {name: float(total / count) for name, (total, count) in metrics.items()}
    wanted = {"loss": expected.mean(), "nll": nll.mean(), "kl": kl.mean(), "tau": tau, "kl_weight": weight}
    for name, number in wanted.items():
        np.testing.assert_allclose(averages[name], number, rtol=1e-5, err_msg=name)
    assert averages["codes_used"] == len(np.unique(found["indices"])) and state == {}


def test_schedules_end_where_they_should():
    steps = jnp.array([0, 75_000, 150_000, 400_000])
    taus = jax.vmap(lambda step: dvae.along_cosine(step, 1.0, 1 / 16, 150_000))(steps)
    np.testing.assert_allclose(taus, [1, 17 / 32, 1 / 16, 1 / 16], rtol=1e-5)
    assert dvae.along_cosine(jnp.int32(0), 0.0, 6.6, 0) == pytest.approx(6.6)


@pytest.mark.long
def test_what_a_checkpoint_gives(tmp_path):
    """A run, which takes ten times as long to compile, is in `tests/test_systems.py`."""
    loaded = vit_jax.load(untrained(tmp_path / "run", config()))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    found = loaded.outputs({"image": pictures}, ("reconstruction", "original", "indices", "latents"))
    np.testing.assert_allclose(found["original"], pictures / 255, atol=1e-6)
    assert found["indices"].shape == (3, 1) and found["latents"].shape == (3, 1, 1, 4)
    assert found["reconstruction"].min() >= 0 and found["reconstruction"].max() <= 1


def test_sentences():
    with pytest.raises(UserError, match="'vqvae' is no discrete VAE with a decoder"):
        dvae.build(model={"name": "vqvae", "width": 8, "latent_width": 4}, data=DataInfo((8, 8), ()))
    with pytest.raises(UserError, match="'dvae' is no discrete VAE with a decoder"):
        dvae.build(model=MODEL | {"decoder": False}, data=DataInfo((8, 8), ()))
    with pytest.raises(UserError, match="do not divide into places of 8"):
        dvae.build(model=MODEL, data=DataInfo((8, 12), ()))
