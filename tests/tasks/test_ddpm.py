"""The task of diffusion: the loss by hand, guided samples that depend on their keys alone, one compiled loop, a run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.nn.diffusion import Noising, add_noise, betas, losses
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo, ddpm
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.run_files import read_metrics

MODEL = {"name": "unet", "channels": 4, "multipliers": [1, 1], "num_blocks": 1, "norm_groups": 2}


def config(**overrides):
    task = {"name": "ddpm", "conditional": True, "label_drop": 0.2, "steps": 20, "last": 0.3}
    # Of one level: two are denoised in the tests of the loss and of samples, and take half as long again to compile.
    values = tiny_config() | {"task": task, "model": MODEL | {"multipliers": [1], "attention_levels": [0]}}
    values["evals"] = {"sheet": {"name": "samples", "count": 4, "settings": {"steps": 2}}}
    values |= {"optim": {"name": "adamw", "learning_rate": 1e-2}, "ema_decay": 0.9}
    return override(values, {key.replace("__", "."): str(value) for key, value in overrides.items()})


def made(**more):
    values = {"conditional": True, "label_drop": 0.1, "steps": 20, "last": 0.3, "variance": "learned_range", **more}
    task = ddpm.build(model=MODEL | {"attention_levels": []}, data=DataInfo((4, 4), ("a", "b")), **values)
    params = init_shapes(task.init, jax.random.key(0), {})["params"]
    rng = np.random.default_rng(1)
    redrawn = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), params)
    return task, {"params": redrawn, "model_state": {}}


@pytest.mark.long
def test_the_loss_by_hand():
    """Of iDDPM's hybrid, with the draws that the task makes of its key."""
    task, variables = made()
    image = np.random.default_rng(0).uniform(-1, 1, (6, 4, 4, 3)).astype(np.float32)
    labels, key = np.array([0, 1] * 3), jax.random.key(3)

    @jax.jit
    def both(image):
        value, (metrics, _) = task.loss(variables, {"image": image, "label": labels}, key, 0)
        dropping, timing, noising, *_ = jax.random.split(key, 5)
        times, noise = jax.random.randint(timing, (6,), 0, 20), jax.random.normal(noising, image.shape)
        shown = jnp.where(jax.random.bernoulli(dropping, 0.1, (6,)), 2, labels)
        table = Noising.of(betas("linear", 20, 1e-4, 0.3))
        output = task.model.apply({"params": variables["params"]}, add_noise(table, image, noise, times), times, shown)
        return value, metrics, times, losses(table, output, image, noise, times)

    value, metrics, times, wanted = both(image)
    np.testing.assert_allclose(value, np.mean(wanted.simple + 0.001 * 20 * wanted.bound), rtol=1e-5)
    tenths = np.asarray(times) // 2
    for i in range(10):
        total, count = metrics[f"simple_t{i}"]
        assert count == (tenths == i).sum()
        np.testing.assert_allclose(total, np.asarray(wanted.simple)[tenths == i].sum(), rtol=1e-5)


@pytest.mark.long
def test_the_loss_of_v_and_a_guided_step_by_hand():
    """Where no variance is learned, the loss is the squared error of what is predicted; where it is, guidance leads
    the prediction alone."""
    image, key = np.random.default_rng(0).uniform(-1, 1, (6, 4, 4, 3)).astype(np.float32), jax.random.key(3)
    plain, of_plain = made(variance="large", prediction="v")
    task, variables = made()
    labels = jnp.array([0, 1] * 3)

    @jax.jit
    def both(image):
        value = plain.loss(of_plain, {"image": image, "label": labels}, key, 0)[0]
        dropping, timing, noising, *_ = jax.random.split(key, 6)
        times, noise = jax.random.randint(timing, (6,), 0, 20), jax.random.normal(noising, image.shape)
        shown = jnp.where(jax.random.bernoulli(dropping, 0.1, (6,)), 2, labels)
        table = Noising.of(betas("linear", 20, 1e-4, 0.3))
        a = jnp.asarray(table.alphas_cumprod, jnp.float32)[times][:, None, None, None]
        x = add_noise(table, image, noise, times)
        output = plain.model.apply({"params": of_plain["params"]}, x, times, shown)
        wanted = jnp.square(output - (jnp.sqrt(a) * noise - jnp.sqrt(1 - a) * image)).mean()

        step = task.reverse_process(variables, {"label": labels}, task.sampling(guidance=3.0)).predict(x, jnp.int32(3))
        said = [
            task.model.apply({"params": variables["params"]}, x, jnp.full(6, 3), of) for of in (labels, labels * 0 + 2)
        ]
        return value, wanted, step, *said

    value, wanted, step, told, untold = both(image)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(step[..., :3], untold[..., :3] + 3 * (told - untold)[..., :3], atol=1e-4)
    np.testing.assert_allclose(step[..., 3:], told[..., 3:], atol=1e-5)
    assert np.abs(told - untold)[..., 3:].max() > 1e-3


@pytest.mark.long
def test_samples_depend_on_their_keys_and_guidance_alone():
    task, variables = made()

    @functools.partial(jax.jit, static_argnums=2)
    def sample(keys, labels, settings):
        return task.sample(variables, {"label": labels}, keys, settings)

    keys, labels = jax.random.split(jax.random.key(0), 4), jnp.array([0, 1, 0, 2])
    guided = task.sampling(steps=4, guidance=3.0)
    samples = np.asarray(sample(keys, labels, guided))
    assert samples.shape == (4, 4, 4, 3) and 0 <= samples.min() < samples.max() <= 1
    np.testing.assert_allclose(sample(keys[1:3], labels[1:3], guided), samples[1:3], atol=1e-5)
    plain = np.asarray(sample(keys, labels, task.sampling(steps=4)))
    apart = np.abs(samples - plain).max((1, 2, 3)) > 1e-3
    assert apart.tolist() == [True, True, True, False]  # the null class is led nowhere


def test_the_loop_is_one_program_of_any_number_of_steps():
    task, variables = made(steps=1000)
    keys, labels = jax.random.split(jax.random.key(0), 1), jnp.zeros(1, jnp.int32)

    def length(steps):
        settings = task.sampling("ddim", steps)
        traced = jax.jit(lambda v: task.sample(v, {"label": labels}, keys, settings)).lower(variables)
        return len(traced.as_text().splitlines())

    assert length(10) == length(999)


@pytest.mark.long
def test_a_run_with_classes(tmp_path):
    train(build_experiment(config(log_every=1)), tmp_path, jax.devices()[:1])
    rows = [row for row in read_metrics(tmp_path) if "train/loss" in row]
    logged = [row["train/loss"] for row in rows]
    assert len(logged) > 1 and 0 < logged[-1] < logged[0]
    # A tenth of the steps that no example fell into has no number, rather than the 0 of a perfect network.
    tenths = [{key: x for key, x in row.items() if key.startswith("train/simple_t")} for row in rows]
    assert all(min(found.values()) > 0 for found in tenths) and min(map(len, tenths)) < 10
    task = vit_jax.load(tmp_path).task
    assert task.model.num_classes == 11
    np.testing.assert_array_equal(task.conditions(["3", ""], task.sampling())["label"], [3, 10])


def test_what_does_not_fit_is_refused():
    task, variables = made(label_drop=0.0)
    fitted = ({"fit_noise": True, **more} for more in ({}, {"sampler": "ddim", "clip": False}))
    for settings, message in (
        ({"steps": 21}, "none can take 21"),
        ({"guidance": 2.0}, "without a null class"),
        *((each, "fit_noise is of DDIM") for each in fitted),
    ):
        with pytest.raises(UserError, match=message):
            task.sample(variables, {"label": jnp.zeros(1, jnp.int32)}, None, task.sampling(**settings))
    with pytest.raises(UserError, match="continuous latents"):
        made(tokenizer={"name": "color_palette", "colors": 8})
    with pytest.raises(UserError, match="cannot halve 5x4"):
        ddpm.build(model=MODEL, data=DataInfo((4, 5), ()))
    reading = MODEL | {"name": "conditional_unet", "attention_levels": [], "context_width": 4, "heads": 1}
    with pytest.raises(
        UserError, match="'conditional_unet' attends to classes, and is told none. Set config.task.cond"
    ):
        ddpm.build(model=reading, data=DataInfo((4, 4), ("a", "b")))
    with pytest.raises(UserError, match="none, since the data names none. Use data with classes"):
        ddpm.build(model=reading, data=DataInfo((4, 4), ()), conditional=True)
    assert ddpm.build(model=reading, data=DataInfo((4, 4), ("a", "b")), conditional=True).model.num_classes == 2
    with pytest.raises(UserError, match="no size"):
        ddpm.build(model=MODEL, data=DataInfo(None, ()))
