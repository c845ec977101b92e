"""Variational autoencoders: formulas in float64, the bounds in their order, gradients, a run, samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import vit_jax
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.nn import variational
from vit_jax.tasks import DataInfo, vae
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

MODEL = {"name": "vae", "width": 8, "hidden": 8, "depth": 1, "factor": 2, "latent_width": 2}
KINDS = {"learned": {}, "fixed": {"variance": 0.3}, "bernoulli": {"likelihood": "bernoulli"}}
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)


def config(**overrides):
    values = tiny_config() | {"task": {"name": "vae"}, "model": MODEL, "evals": {}}
    values |= {"optim": {"name": "adamw", "learning_rate": 2e-3, "clip_norm": 1.0}}
    return override(values, {key.replace("__", "."): str(value) for key, value in overrides.items()})


@functools.cache
def built(kind):
    task = vae.build(model=MODEL | KINDS[kind], data=DataInfo((8, 8), ()), beta=2.0, draws=64)
    variables = jax.jit(task.init)(jax.random.key(0), {"image": IMAGES})
    rng = np.random.default_rng(1)
    redrawn = jax.tree.map(lambda x: (x + rng.normal(0, 0.05, x.shape)).astype(np.float32), variables["params"])
    return task, {"params": redrawn, "model_state": {}}


def test_formulas():
    """Against SciPy, and the divergence against the mean of many draws."""
    moments = RNG.normal(0, 0.5, (3, 2, 2, 4)).astype(np.float32)
    mean, deviation = np.float64(moments[..., :2]), np.exp(0.5 * np.float64(moments[..., 2:]))
    keys = jax.random.split(jax.random.key(0), 3)
    draw = jax.jit(lambda key: variational.drawn(jax.random.split(key, 3), moments))
    many = np.stack([draw(key) for key in jax.random.split(jax.random.key(1), 2000)])
    logs = scipy.stats.norm.logpdf(many, mean, deviation) - scipy.stats.norm.logpdf(many)
    np.testing.assert_allclose(variational.divergence(moments), logs.sum((2, 3, 4)).mean(0), atol=0.2)
    exact = 0.5 * (mean**2 + deviation**2 - 1 - 2 * np.log(deviation))
    np.testing.assert_allclose(variational.divergence(moments), exact.sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(many.mean(0), mean, atol=0.1)
    x = RNG.normal(size=mean.shape).astype(np.float32)
    wanted = scipy.stats.norm.logpdf(x, mean, deviation).sum((1, 2, 3))
    np.testing.assert_allclose(variational.gaussian(x, *np.split(moments, 2, -1)), wanted, rtol=1e-5)
    bits, logits = (x > 0).astype(np.float32), moments[..., :2]
    chances = 1 / (1 + np.exp(-np.float64(logits)))
    wanted = scipy.stats.bernoulli.logpmf(bits, chances).sum((1, 2, 3))
    np.testing.assert_allclose(variational.bernoulli(bits, logits), wanted, rtol=1e-5)
    assert not np.array_equal(variational.drawn(keys, moments), variational.drawn(keys[::-1], moments))


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_the_bounds(kind):
    """The divergence by its weight; one draw's ELBO is the importance-weighted bound of one, and never above that of
    more; and draws of one image do not depend on the others."""
    task, variables = built(kind)

    @jax.jit
    def run(params):
        return jax.value_and_grad(
            lambda p: task.loss({"params": p, "model_state": {}}, {"image": IMAGES}, jax.random.key(2), 0), has_aux=True
        )(params)

    (value, (metrics, _)), slopes = run(variables["params"])
    each = {name: float(total / weight) for name, (total, weight) in metrics.items()}
    np.testing.assert_allclose(value, 2 * each["divergence"] - each["log_likelihood"], rtol=1e-5)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(slopes))
    assert ("log_variance" in variables["params"]) == (kind == "learned")

    names = frozenset({"elbo", "importance_bound", "reconstruction", "moments"})
    outputs = jax.jit(lambda images, keys: task.outputs(variables, {"image": images}, names, keys))
    found = outputs(IMAGES, jax.random.split(jax.random.key(3), 4))
    assert np.all(found["elbo"] < found["importance_bound"])
    np.testing.assert_allclose(variational.divergence(found["moments"]).mean(), each["divergence"], rtol=1e-5)
    # The exact divergence is less noisy than a draw's: the mean of many agrees.
    np.testing.assert_allclose(found["elbo"].mean(), each["log_likelihood"] - each["divergence"], rtol=0.1)
    some = outputs(IMAGES[1:3], jax.random.split(jax.random.key(3), 4)[1:3])
    np.testing.assert_allclose(some["elbo"], found["elbo"][1:3], rtol=1e-4)
    assert np.all(variational.importance_bound(jnp.array([[1.0, 2.0]])) == jnp.array([1.0, 2.0]))


@pytest.mark.long
def test_a_run_its_outputs_and_its_samples(tmp_path):
    train(build_experiment(config()), tmp_path, jax.devices()[:1])
    loaded = vit_jax.load(tmp_path)
    pictures = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
    found = loaded.outputs({"image": pictures}, ("reconstruction", "original", "latents", "moments", "features"))
    assert found["moments"].shape == (3, 4, 4, 4) and found["reconstruction"].shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(found["latents"], found["moments"][..., :2])
    np.testing.assert_allclose(found["original"], pictures / 255, atol=1e-6)
    task, variables = loaded.task, {"params": loaded.params, "model_state": {}}
    keys = jax.random.split(jax.random.key(0), 5)
    sample = jax.jit(lambda keys: task.sample(variables, {}, keys, task.sampling()))
    samples = sample(keys)
    np.testing.assert_allclose(samples[3:4], sample(keys[3:4]), atol=1e-6)
    assert samples.min() >= 0 and samples.max() <= 1 and np.ptp(samples[:, 0, 0, 0]) > 0
    assert task.conditions([""], task.sampling()) == {"label": 0}
    with pytest.raises(UserError, match="knows no classes"):
        task.conditions(["cat"], task.sampling())


def test_another_model_is_refused():
    with pytest.raises(UserError, match="no likelihood"):
        vae.build(model={"name": "vqvae", "width": 8}, data=DataInfo((8, 8), ()))
    with pytest.raises(UserError, match="no size"):
        vae.build(model=MODEL, data=DataInfo(None, ()))
