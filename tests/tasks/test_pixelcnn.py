"""The task of pixels: the loss by hand, samples that follow the model's probabilities, a run with classes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo, pixelcnn
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

MODEL = {"name": "pixelcnn", "levels": 4, "colours": 1, "width": 8, "depth": 2, "first_size": 3}


def config(**overrides):
    values = tiny_config() | {"task": {"name": "pixelcnn", "conditional": True, "label_drop": 0.2}, "model": MODEL}
    values |= {"evals": {"bits": {"name": "perplexity"}}, "optim": {"name": "adamw", "learning_rate": 1e-2}}
    return override(values, {key.replace("__", "."): str(value) for key, value in overrides.items()})


def made(side, levels, **more):
    data = DataInfo((side, side), ("a", "b"))
    task = pixelcnn.build(model=MODEL | {"levels": levels}, data=data, **more)
    params = init_shapes(task.init, jax.random.key(0), {})["params"]
    rng = np.random.default_rng(1)
    redrawn = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), params)
    return task, {"params": redrawn, "model_state": {}}


def test_the_loss_by_hand():
    task, variables = made(3, 4)
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 1)).repeat(3, -1)
    batch = {"image": (image / 127.5 - 1).astype(np.float32)}
    value, (metrics, _) = jax.jit(lambda b: task.loss(variables, b, jax.random.key(0), 0))(batch)
    levels = image[..., :1] // 64
    logits = np.float64(jax.jit(task.model.apply)({"params": variables["params"]}, levels))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(logs, levels[..., None], -1)
    np.testing.assert_allclose(value, nats.mean(), rtol=1e-5)
    bits = float(metrics["bits_per_dim"][0] / metrics["bits_per_dim"][1])
    np.testing.assert_allclose(bits, nats.mean() / np.log(2), rtol=1e-5)
    shown = task.outputs(variables, batch, frozenset({"original"}), jax.random.split(jax.random.key(0), 2))
    np.testing.assert_allclose(shown["original"], (levels / 3).repeat(3, -1), rtol=1e-6)


@pytest.mark.long
def test_samples_follow_the_probabilities():
    """Of the 16 images of 2x2 bits, 4,000 samples against the chain rule; and each sample by its own key."""
    task, variables = made(2, 2)
    images = np.array(list(itertools.product(range(2), repeat=4))).reshape(-1, 2, 2, 1)
    logs = jax.nn.log_softmax(jax.jit(task.model.apply)({"params": variables["params"]}, images))
    wanted = np.exp(np.take_along_axis(np.asarray(logs), images[..., None], -1).sum((1, 2, 3, 4)))

    @functools.partial(jax.jit, static_argnums=1)
    def sample(keys, settings):
        return task.sample(variables, {"label": jnp.zeros(len(keys), jnp.int32)}, keys, settings)

    keys = jax.random.split(jax.random.key(0), 4000)
    samples = np.asarray(sample(keys, task.sampling()))
    numbers = samples[..., 0].reshape(-1, 4) @ [8, 4, 2, 1]
    found = np.bincount(numbers.astype(int), minlength=16) / 4000
    np.testing.assert_allclose(found, wanted, atol=0.04)
    np.testing.assert_array_equal(sample(keys[7:9], task.sampling()), samples[7:9])
    likeliest = np.asarray(sample(keys[:2], task.sampling(temperature=0.0)))
    np.testing.assert_array_equal(likeliest[0], likeliest[1])
    assert task.sampling_costs(task.sampling()) == {"tokens": 4, "passes": 4}


@pytest.mark.long
def test_a_run_with_classes(tmp_path):
    summary = train(build_experiment(config()), tmp_path, jax.devices()[:1])
    assert 0 < summary["bits/loss"] < 2
    task = vit_jax.load(tmp_path).task
    assert task.model.num_conditions == 11
    np.testing.assert_array_equal(task.conditions(["3", ""], task.sampling())["label"], [3, 10])
    with pytest.raises(UserError, match="no class 12"):
        task.conditions(["12"], task.sampling())


def test_another_model_is_refused():
    with pytest.raises(UserError, match="makes no pixels"):
        pixelcnn.build(model={"name": "vqvae"}, data=DataInfo((8, 8), ()))
    with pytest.raises(UserError, match="no size"):
        pixelcnn.build(model=MODEL, data=DataInfo(None, ()))
