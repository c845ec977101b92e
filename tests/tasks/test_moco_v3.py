"""MoCo v3: algorithm 1 by hand, what is frozen and averaged, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tiny_contrastive import RESNET, VIT, contrastive_config, contrastive_run
from vit_jax import UserError
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params
from vit_jax.checkpoints.transfer import init_from
from vit_jax.naming import build_named
from vit_jax.nn.flops import product_flops
from vit_jax.planning.rehearsal import rehearse
from vit_jax.tasks import DataInfo
from vit_jax.tasks.moco_v3 import contrast

VIEWS = np.random.default_rng(0).normal(size=(6, 2, 8, 8, 3)).astype(np.float32)


def task_of(model=VIT, **kwargs):
    data = DataInfo((8, 8), ())
    section = {"name": "moco_v3", "hidden": 24, "out": 8, **kwargs}
    return build_named("task", section, "config.task", model=model, data=data)


def mlp(x, params, last_norm=True):
    """Linear layers, batch normalisation, ReLU, in float64; the last normalisation has no parameters."""
    layers = sum(name.startswith("dense") for name in params)
    for i in range(1, layers + 1):
        x = x @ np.asarray(params[f"dense{i}"]["kernel"], np.float64)
        if i < layers or last_norm:
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        if i < layers:
            norm = params[f"norm{i}"]
            x = np.maximum(x * np.asarray(norm["scale"]) + np.asarray(norm["bias"]), 0)
    return x


@pytest.mark.long
@pytest.mark.parametrize("predictor_norm", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_algorithm_1_by_hand(predictor_norm):
    task = task_of(predictor_norm=predictor_norm, projector_layers=3 if predictor_norm else 2, temperature=0.3)
    variables = jax.jit(task.init)(jax.random.key(0), {"image": VIEWS})
    params, state = variables["params"], variables["model_state"]
    assert set(params) == {"encoder", "projector", "predictor"}
    last = "norm3" if predictor_norm else "norm2"
    assert last not in params["projector"] and last in state["batch_stats"]["projector"]
    assert ("norm2" in state["batch_stats"]["predictor"]) is predictor_norm
    # The average is another network than the one that learns.
    noise = np.random.default_rng(1)
    ema = jax.tree.map(lambda x: x + 0.1 * noise.normal(size=x.shape).astype(np.float32), params)

    features = jax.jit(lambda p, x: task.model.apply({"params": p}, x)["features"])
    q = [mlp(mlp(np.asarray(features(params, VIEWS[:, i]), float), params["projector"]), params["predictor"],
             predictor_norm) for i in range(2)]  # fmt: skip
    k = [mlp(np.asarray(features(ema, VIEWS[:, i]), float), ema["projector"]) for i in range(2)]
    one, two = (jax.jit(contrast)(jnp.asarray(q[i]), jnp.asarray(k[1 - i]), 0.3) for i in range(2))

    @jax.jit
    def step(params, ema):
        def loss(params, ema):
            variables = {"params": params, "ema": ema, "model_state": state}
            return task.loss(variables, {"image": VIEWS}, jax.random.key(1), jnp.int32(0))

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, ema)

    (value, (metrics, new)), (of_params, of_ema) = step(params, ema)
    np.testing.assert_allclose(value, one[0].mean() + two[0].mean(), rtol=2e-4)
    metrics = {name: float(total / weight) for name, (total, weight) in metrics.items()}
    right = (one[1].mean() + two[1].mean()) / 2
    assert metrics == pytest.approx({"loss": float(value), "accuracy": float(right)}, rel=1e-5)
    # Keys have no gradient; everything else has.
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_ema))
    assert all(leaf.any() for leaf in jax.tree.leaves((of_params["projector"], of_params["predictor"])))
    # Running statistics are those of the queries' two passes, one after the other.
    inputs = [np.asarray(features(params, VIEWS[:, i]), float) for i in range(2)]
    means = [(x @ np.asarray(params["projector"]["dense1"]["kernel"], float)).mean(0) for x in inputs]
    expected = 0.9 * 0.1 * means[0] + 0.1 * means[1]
    np.testing.assert_allclose(new["batch_stats"]["projector"]["norm1"]["mean"], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.long
def test_a_run_keeps_the_patch_projection_and_averages_the_rest(tmp_path):
    contrastive_run(tmp_path / "1", "moco_v3", stop_at=1)
    contrastive_run(tmp_path / "6", "moco_v3")
    first, _ = read_params(find(tmp_path / "1"))
    params, state = read_params(find(tmp_path / "6"))
    ema, _ = read_params(find(tmp_path / "6"), "ema")
    jax.tree.map(np.testing.assert_array_equal, params["encoder"]["embedding"], first["encoder"]["embedding"])
    block = "block_00"
    assert not np.allclose(
        params["encoder"][block]["mlp"]["fc1"]["kernel"], ema["encoder"][block]["mlp"]["fc1"]["kernel"]
    )
    assert set(state["batch_stats"]) == {"projector", "predictor"}
    # The checkpoint's product is the encoder that learns, and its head counts for nothing downstream.
    loaded = vit_jax.load(tmp_path / "6")
    np.testing.assert_array_equal(loaded.params["encoder"]["cls"], params["encoder"]["cls"])
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    assert loaded.features(images).shape == (2, 32)
    target = {"encoder": params["encoder"], "head": {"kernel": np.zeros((32, 10))}}
    found, (report,) = init_from({"params": target}, str(tmp_path / "6"))
    assert set(report.missing) == {"head/kernel"} and all(n.split("/")[0] != "encoder" for n in report.unused)
    np.testing.assert_array_equal(found["params/encoder/cls"], params["encoder"]["cls"])


@pytest.mark.slow
def test_on_a_resnet(tmp_path):
    changes = {"task__projector_layers": 2, "task__predictor_norm": "false"}
    contrastive_run(tmp_path, "moco_v3", RESNET, **changes, steps=2, optim__schedule__warmup_steps=0)
    _, state = read_params(find(tmp_path))
    mean = state["batch_stats"]["encoder"]["norm1"]["mean"]
    assert np.abs(mean).max() > 0.01


def test_without_a_moving_average(tmp_path):
    with pytest.raises(UserError, match="computes its keys with a moving average.*config.ema_decay"):
        contrastive_run(tmp_path / "run", "moco_v3", ema_decay="none")
    with pytest.raises(UserError, match="over one image has no negatives"):
        contrastive_run(tmp_path / "run", "moco_v3", batch_size=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_the_frozen_projection_spares_its_gradient():
    """Of two views: four patches of 4x4x3 numbers each, times a matrix."""
    found = rehearse(contrastive_config("moco_v3"), 10, jax.devices()[:1])
    spared = 2 * product_flops(4, 48, 32)
    assert found.training_flops() == pytest.approx(found.task.flops(found.shapes) - spared, rel=1e-9)


def test_bad_values_are_refused():
    with pytest.raises(UserError, match="temperature is -1"):
        task_of(temperature=-1)
    with pytest.raises(UserError, match="projector_layers is 0"):
        task_of(projector_layers=0)
    with pytest.raises(UserError, match="Did you mean 'predictor_norm'"):
        task_of(predictor_nrom=True)
