"""Running statistics that are estimated anew: what they are, where they go, and that `load` gives what was measured."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params
from vit_jax.commands.main import main
from vit_jax.naming import build_named
from vit_jax.nn.batch_norm import BatchNorm, by_batch
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import in_training
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.metrics import round_off
from vit_jax.training.parameters import path_name

MODEL = {"name": "resnet", "variant": "18", "depths": [1], "width": 8, "stem": "cifar", "zero_init": False}


def config(**overrides):
    values = tiny_config(steps=4, **overrides) | {"model": MODEL}
    values["data"]["train"].pop("per_class")
    return values | {"ema": {"decay": {"name": "ramp", "end": 0.9, "timescale": 2}}}


def trained(workdir, devices=1, **overrides):
    return train(build_experiment(config(**overrides)), workdir, jax.devices()[:devices])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with the checkpoints of steps 2 and 4, and the summary."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, trained(workdir, recalibrate=200, checkpoint__every=2, checkpoint__keep=9)


def test_the_norm_of_a_batch_is_that_of_training():
    x = np.random.default_rng(0).normal(3, 2, size=(5, 4, 4, 3)).astype(np.float32)
    for norm in (BatchNorm(name="a"), BatchNorm(use_scale=False), BatchNorm(use_bias=False, dtype=jnp.bfloat16)):
        variables = norm.init(jax.random.key(0), x, train=False)
        variables["params"] = jax.tree.map(lambda p: p + 0.5, variables.get("params", {}))
        expected, new = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        with by_batch() as found:
            given = norm.apply(variables, x, train=False)
        assert given.dtype == expected.dtype
        np.testing.assert_allclose(np.float32(given), np.float32(expected), atol=1e-5 if norm.dtype is None else 0.04)
        mean, var = (new["batch_stats"][k] for k in ("mean", "var"))
        np.testing.assert_allclose(found["batch_stats/mean"], mean / 0.1, rtol=1e-5)
        np.testing.assert_allclose(found["batch_stats/var"], (var - 0.9) / 0.1, rtol=1e-5)


@pytest.mark.parametrize("variant", ["B1", "L1"])
def test_every_norm_of_efficientvit_is_found(variant):
    section = {"name": "efficientvit", "variant": variant, "depths": [1] * 5}
    model = build_named("model", section, "config.model", num_classes=3)
    images = jnp.zeros((2, 64, 64, 3))

    variables = init_shapes(model.init, jax.random.key(0), images)

    def found(variables, images):
        with by_batch() as found:
            model.apply(variables, images, train=False)
        return found

    estimated, held = jax.eval_shape(found, variables, images), {"batch_stats": variables["batch_stats"]}
    assert {name: leaf.shape for name, leaf in estimated.items()} == {
        path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(held)
    }


@pytest.mark.long
def test_the_product_has_the_means_of_batches_of_training_images(run):
    averaged, statistics = read_params(find(run[0]), "ema")
    # Two batches of 100 of training's images, through the training pass of the model itself.
    inputs = build_experiment(config() | {"batch_size": 100})

    @jax.jit
    def of_batch(state, images):
        return in_training(inputs.task.model, averaged, state, jax.random.split(jax.random.key(0)), images)[1]

    zeros, found = jax.tree.map(jnp.zeros_like, statistics), []
    for step in range(2):
        found.append(of_batch(zeros, inputs.on_device_eval(inputs.pipeline.batch(step))["image"]))
    expected = jax.tree.map(lambda a, b: (a + b) / 2 / 0.1, *found)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), statistics, expected)


def evaluated(checkpoint, tmp_path, *flags):
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "scores.json"), *flags]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    return {k: round_off(v) for k, v in scores.items() if k != "checkpoint"}


@pytest.mark.long
def test_what_training_measured_is_what_its_checkpoint_gives(run, tmp_path):
    workdir, summary = run
    jax.tree.map(np.testing.assert_array_equal, vit_jax.load(workdir).model_state, read_params(find(workdir), "ema")[1])
    measured = {k: v for k, v in summary.items() if k.startswith("val/")}
    assert evaluated(workdir, tmp_path) == measured
    # Estimated again they are the same; what was saved before the end was not recalibrated.
    assert evaluated(workdir, tmp_path, "--recalibrate", "200") == measured
    halfway = [evaluated(workdir / "checkpoints" / "2", tmp_path, *f) for f in ((), ("--recalibrate", "100"))]
    assert halfway[0] != halfway[1]


@pytest.mark.long
def test_all_else_is_as_without_it_and_an_interrupted_run_ends_alike(run, tmp_path):
    workdir, _ = run
    trained(tmp_path / "without", checkpoint__every=2, checkpoint__keep=9)
    for step, product in ((2, "params"), (2, "ema"), (4, "params")):
        ours, theirs = (
            read_params(find(w / "checkpoints" / str(step)), product) for w in (workdir, tmp_path / "without")
        )
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    trained(tmp_path / "stopped", stop_at=2, recalibrate=200)
    trained(tmp_path / "stopped", recalibrate=200)
    ours = read_params(find(workdir), "ema")
    jax.tree.map(np.testing.assert_array_equal, read_params(find(tmp_path / "stopped"), "ema"), ours)
    trained(tmp_path / "eight", 8, recalibrate=200)
    found = read_params(find(tmp_path / "eight"), "ema")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, ours)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recalibrate": 1}, "config.recalibrate is 1"),
        ({"recalibrate": 150}, "config.recalibrate is 150"),
        ({"recalibrate": 100, "model": {"name": "vit", "variant": "mu/4", "depth": 1}}, "has no batch normalisation"),
    ],
)
def test_mistakes_get_a_sentence(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train(build_experiment(tiny_config() | changes), tmp_path)
