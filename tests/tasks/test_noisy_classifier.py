"""A classifier of noisy images, alone and as what leads a diffusion: its loss by hand, its gradient, both in one run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vit_jax
from tests.tasks import test_ddpm as denoising
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.models import unet_classifier
from vit_jax.nn.diffusion import Noising, add_noise, betas
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo, ddpm, noisy_classifier
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.run_files import read_metrics

MODEL = {
    "name": "unet_classifier", "channels": 4, "multipliers": [1, 2], "num_blocks": 1, "attention_levels": [1],
    "head_width": 4, "norm_groups": 2,
}  # fmt: skip
NOISE = {"steps": 20, "last": 0.3}


def config(**overrides):
    values = tiny_config() | {"task": {"name": "noisy_classifier", **NOISE}, "model": MODEL}
    values |= {"evals": {"val": {"name": "classification"}}, "optim": {"name": "adamw", "learning_rate": 1e-2}}
    return override(values, {key.replace("__", "."): str(value) for key, value in overrides.items()})


def redrawn(task, batch=None):
    params, rng = init_shapes(task.init, jax.random.key(0), batch or {})["params"], np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), params)


@pytest.mark.long
def test_the_loss_by_hand():
    data = DataInfo((4, 4), ("a", "b", "c"))
    task = noisy_classifier.build(model=MODEL, data=data, **NOISE)
    images = np.random.default_rng(0).uniform(-1, 1, (6, 4, 4, 3)).astype(np.float32)
    batch, key = {"image": images, "label": np.array([0, 1, 2] * 2)}, jax.random.key(3)
    params = redrawn(task, batch)

    @jax.jit
    def both(images):
        value, (metrics, _) = task.loss({"params": params, "model_state": {}}, batch, key, 0)
        timing, noising, *_ = jax.random.split(key, 4)
        times, noise = jax.random.randint(timing, (6,), 0, 20), jax.random.normal(noising, images.shape)
        noisy = add_noise(Noising.of(betas("linear", 20, 1e-4, 0.3)), images, noise, times)
        return value, metrics, times, task.model.apply({"params": params}, noisy, times)["logits"]

    value, metrics, times, logits = both(images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    np.testing.assert_allclose(value, losses.mean(), rtol=1e-5)
    right = np.asarray(logits).argmax(1) == batch["label"]
    assert metrics["accuracy"] == (right.sum(), 6)
    assert [metrics[f"accuracy_t{i}"][1] for i in range(10)] == [(np.asarray(times) // 2 == i).sum() for i in range(10)]


@pytest.fixture(scope="module")
def led():
    """A diffusion that is told no classes, with a classifier beside it."""
    task = ddpm.build(
        model=denoising.MODEL | {"attention_levels": []}, data=DataInfo((4, 4), ("a", "b")), classifier=MODEL, **NOISE
    )  # fmt: skip
    return task, {"params": redrawn(task), "model_state": {}}


@pytest.mark.long
def test_the_gradient_is_that_of_the_classifier(led):
    """s times the gradient of log p(y | x_t), example by example; the null class leads nowhere."""
    task, variables = led
    assert task.model.num_classes == 0 and task.classes == ("a", "b")
    x = np.random.default_rng(2).normal(size=(3, 4, 4, 3)).astype(np.float32)
    labels, step = jnp.array([1, 0, 2]), jnp.int32(7)

    @jax.jit
    def both(x):
        process = task.reverse_process(variables, {"label": labels}, task.sampling(classifier_scale=2.5))

        def likely(one, label):
            given = {"params": variables["params"]["classifier"]}
            logits = task.classifier.apply(given, one[None], jnp.array([7]))["logits"][0]
            return logits[label] - jax.nn.logsumexp(logits)

        return process.gradient(x, step), 2.5 * jax.vmap(jax.grad(likely))(x[:2], labels[:2])

    found, wanted = both(x)
    assert np.abs(np.asarray(wanted)).max() > 0.01
    np.testing.assert_allclose(found[:2], wanted, rtol=1e-3, atol=1e-5)
    assert not found[2].any()


@pytest.mark.long
def test_samples_are_led_to_their_class(led):
    task, variables = led
    keys, labels = jax.random.split(jax.random.key(0), 8), jnp.array([0, 1] * 4)

    @jax.jit
    def likely(scale):
        settings = task.sampling("ddim", 5, classifier_scale=1.0)
        process = task.reverse_process(variables, {"label": labels}, settings)
        scaled = dataclasses.replace(process, gradient=lambda x, t: scale * process.gradient(x, t))
        logits = task.classifier.apply({"params": variables["params"]["classifier"]}, scaled.sample(keys))["logits"]
        return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    found = [float(likely(scale)) for scale in (0.0, 100.0, 300.0)]
    assert found[0] + 0.01 < found[1] < found[2], found


@pytest.mark.long
def test_both_in_one_run(tmp_path):
    """The classifier's run is the second checkpoint of a diffusion's, where it stays as it is."""
    train(build_experiment(config(log_every=1)), tmp_path / "judge", jax.devices()[:1])
    rows = [row for row in read_metrics(tmp_path / "judge") if "train/loss" in row]
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    judge = vit_jax.load(tmp_path / "judge")
    assert judge.logits(np.zeros((1, 8, 8, 3), np.float32)).shape == (1, 10)

    values = denoising.config(steps=2, evals__sheet__count=2)
    values["task"] = {"name": "ddpm", **NOISE, "classifier": MODEL}
    values["optim"] = {"name": "adamw", "learning_rate": 1e-2, "frozen": ["classifier/.*"]}
    with pytest.raises(UserError, match="locks 'classifier', and no weights"):
        train(build_experiment(values), tmp_path / "led", jax.devices()[:1])
    values["init_from"] = {"classifier": f"{tmp_path / 'judge'}::"}
    train(build_experiment(values), tmp_path / "led", jax.devices()[:1])
    loaded = vit_jax.load(tmp_path / "led")
    jax.tree.map(np.testing.assert_array_equal, loaded.params["classifier"], judge.params)
    drawn = loaded.sample(2, prompts=["3", "7"], steps=2, classifier_scale=4.0)
    assert drawn.conditions["label"].tolist() == [3, 7]


def test_what_does_not_fit_is_refused(led):
    task, variables = denoising.made()
    with pytest.raises(UserError, match="classifier_scale=2 is of a classifier"):
        task.sample(variables, {"label": jnp.zeros(1, jnp.int32)}, None, task.sampling(classifier_scale=2.0))
    with pytest.raises(UserError, match="names no classes"):
        noisy_classifier.build(model=MODEL, data=DataInfo((4, 4), ()))
    with pytest.raises(UserError, match="and the data names none"):
        ddpm.build(model=denoising.MODEL, data=DataInfo((4, 4), ()), classifier=MODEL)
    with pytest.raises(UserError, match="from 0.0001 to 1 does not grow"):
        noisy_classifier.build(model=MODEL, data=DataInfo((4, 4), ("a", "b")), last=1.0)
    with pytest.raises(UserError, match="cannot halve 5x4"):
        noisy_classifier.build(model=MODEL, data=DataInfo((4, 5), ("a", "b")))
    with pytest.raises(UserError, match="8 channels do not divide into heads of 3"):
        unet_classifier.build(**{k: v for k, v in MODEL.items() if k != "name"} | {"head_width": 3}, num_classes=2)
