"""The first three updates of the recipes' optimizers against the papers' rules, written out in NumPy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from vit_jax import UserError
from vit_jax.naming import build_model
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.trunk import below, side_by_side
from vit_jax.training import optim
from vit_jax.training.parameters import layerwise, leaf_names


def tree(make):
    fc1 = lambda: {"fc1": {"kernel": make(3, 4), "bias": make(4)}}  # noqa: E731
    encoder = {
        "embedding": {"kernel": make(2, 2, 3, 4), "bias": make(4)}, "cls": make(1, 1, 4), "pos_embedding": make(2, 2, 4),
        "block_00": fc1(), "block_01": fc1(), "norm": {"scale": make(4)},
    }  # fmt: skip
    return {"encoder": encoder, "head": {"kernel": make(4, 5), "bias": make(5)}}


RNG = np.random.default_rng(0)
PARAMS = tree(lambda *shape: RNG.normal(size=shape).astype(np.float32))
GRADS = [tree(lambda *shape: RNG.normal(size=shape).astype(np.float32)) for _ in range(3)]
NAMES = leaf_names(PARAMS)
LAYERS = below("encoder", (("embedding", "cls", "pos_embedding"), ("block_00",), ("block_01",)))


def flat(values):
    return dict(zip(NAMES, jax.tree.leaves(values), strict=True))


def three_updates(section, steps):
    tx, schedules = optim.build(section, steps, PARAMS, layers=LAYERS)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state, update = tx.init(params), jax.jit(tx.update)
    for step, gradient in enumerate(GRADS):
        rates = {name: schedule(step) for name, schedule in schedules.items()}
        changes, state = update(gradient, state, params, rates=rates)
        params = optax.apply_updates(params, changes)
    return jax.tree.map(np.asarray, flat(params))


def gradients(name, clip):
    """The three gradients of one parameter, scaled by the norm of all."""
    norms = [np.sqrt(sum((g.astype(float) ** 2).sum() for g in jax.tree.leaves(grad))) for grad in GRADS]
    return [
        flat(grad)[name].astype(float) * (min(1, clip / n) if clip else 1) for grad, n in zip(GRADS, norms, strict=True)
    ]


def adamw(name, rates, clip, decay, b1=0.9, b2=0.999, eps=1e-8, mu_dtype=float, scale=1.0):
    p, m, v = flat(PARAMS)[name].astype(float), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients(name, clip), rates, strict=True), 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        p = p - rate * scale * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * p)
        m = np.asarray(m).astype(mu_dtype).astype(float)
    return p


def momentum(name, rates, clip, dtype=float, scale=1.0, nesterov=False):
    p, trace = flat(PARAMS)[name].astype(float), 0.0
    for g, rate in zip(gradients(name, clip), rates, strict=True):
        trace = 0.9 * trace + g
        p = p - rate * scale * (0.9 * trace + g if nesterov else trace)
        trace = trace.astype(dtype).astype(float)
    return p


def test_adamw_with_multipliers_by_name():
    section = {
        "name": "adamw", "learning_rate": 0.1, "weight_decay": 0.3, "clip_norm": 1.0,
        "learning_rate_multipliers": [["head/.*", 10.0], ["encoder/block_00/.*", 0.0]],
        "weight_decay_multipliers": [["head/kernel", 0.5], [".*/pos_embedding", 1.0]],
        "schedule": {"name": "linear", "warmup_steps": 2},
    }  # fmt: skip
    got = three_updates(section, 10)
    for name in NAMES:
        scale = 10.0 if name.startswith("head") else 0.0 if "block_00" in name else 1.0
        decay = {"head/kernel": 0.15, "encoder/pos_embedding": 0.3}.get(name, 0.3 * name.endswith("kernel"))
        np.testing.assert_allclose(got[name], adamw(name, [0, 0.05, 0.1], 1.0, decay, scale=scale), atol=2e-5)


def test_layer_wise_decay():
    got = three_updates({"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.05, "layer_decay": 0.5}, 10)
    for name in NAMES:
        part = name.split("/")[1] if name.startswith("encoder") else "head"
        scale = {"block_00": 0.25, "block_01": 0.5, "norm": 1.0, "head": 1.0}.get(part, 0.125)
        decay = 0.05 * name.endswith("kernel")
        np.testing.assert_allclose(got[name], adamw(name, [0.1] * 3, None, decay, scale=scale), atol=2e-5)


@pytest.mark.parametrize(
    "model",
    [
        {"name": "vit", "variant": "mu/4", "depth": 2, "pooling": "distilled", "distillation_token": True,
         "num_registers": 2},
        {"name": "hybrid", "variant": "R+Ti/16", "depth": 2},
        {"name": "vit", "variant": "mu/4", "depth": 2, "pooling": "map", "representation_size": 8},
    ],
)  # fmt: skip
def test_all_that_the_blocks_read_learns_at_the_rate_of_layer_0(model):
    """A register at the full rate beside a patch embedding at 0.65 ** 13 of it is no layer-wise decay."""
    module = build_model(model, num_classes=3)[0]
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    variables = init_shapes(lambda x: module.init(jax.random.key(0), x, train=False), image)
    names = leaf_names(variables["params"])
    factor = layerwise(0.5, module.layers(), names, "layer_decay")
    for name in names:
        place = name.split("/")[1] if name.startswith("encoder/") else ""
        expected = {"block_00": 0.25, "block_01": 0.5, "norm": 1.0, "": 1.0}.get(place, 0.125)
        assert factor(name) == expected, name
    assert sum(factor(n) == 0.125 for n in names) > 2


def test_layers_of_two_towers_count_from_their_ends():
    image = below("encoder", (("embedding", "cls"), ("block_00",), ("block_01",)))
    layers = side_by_side(image, below("text", (("cls",), ("block_00",))))
    names = ("encoder/cls", "encoder/block_00/x", "encoder/block_01/x", "text/cls", "text/block_00/x", "temperature")
    factor = layerwise(0.5, layers, names, "layer_decay")
    assert [factor(n) for n in names] == [0.125, 0.25, 0.5, 0.25, 0.5, 1.0]
    with pytest.raises(UserError, match="needs the order of the layers"):
        layerwise(0.5, layers, ["encoder/block_011/x", "temperature"], "layer_decay")


@pytest.mark.parametrize("model", [
    {"name": "resnet", "variant": "18", "depths": [2, 1]},
    {"name": "bit", "variant": "R50x1", "stage_sizes": [2, 1]},
])  # fmt: skip
def test_units_of_all_stages_are_layers_one_after_the_other(model):
    module = build_model(model, num_classes=3)[0]
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    names = leaf_names(init_shapes(module.init, jax.random.key(0), image)["params"])
    factor = layerwise(0.5, module.layers(), names, "layer_decay")
    expected = {"stage1_unit01": 0.125, "stage1_unit02": 0.25, "stage2_unit01": 0.5, "norm": 1.0, "bias": 1.0,
                "kernel": 1.0}  # fmt: skip
    assert all(factor(n) == expected.get(n.split("/")[1], 0.0625) for n in names)


def test_sgd_with_bfloat16_momentum():
    section = {"name": "sgd", "learning_rate": 0.3, "clip_norm": 1.0, "accumulator_dtype": "bfloat16"}
    got = three_updates(section, 10)
    for name in NAMES:
        expected = momentum(name, [0.3] * 3, 1.0, ml_dtypes.bfloat16)
        np.testing.assert_allclose(got[name], expected, atol=1e-6)
    exact = momentum("head/kernel", [0.3] * 3, 1.0)
    assert np.abs(got["head/kernel"] - exact).max() > 1e-5


def test_sgd_with_nesterov_momentum():
    got = three_updates({"name": "sgd", "learning_rate": 0.3, "nesterov": True}, 10)
    for name in NAMES:
        np.testing.assert_allclose(got[name], momentum(name, [0.3] * 3, None, nesterov=True), atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars(nesterov):
    section = {"name": "lars", "learning_rate": 2.0, "weight_decay": 0.3, "trust_coefficient": 0.01, "momentum": 0.8,
               "nesterov": nesterov, "schedule": {"name": "linear", "warmup_steps": 2}}  # fmt: skip
    got = three_updates(section, 10)
    for name in NAMES:
        p, velocity, kernel = flat(PARAMS)[name].astype(float), 0.0, name.endswith("kernel")
        for g, rate in zip(gradients(name, None), [0, 1.0, 2.0], strict=True):
            if kernel:
                g = g + 0.3 * p
                g = g * 0.01 * np.linalg.norm(p) / np.linalg.norm(g)
            velocity = 0.8 * velocity + rate * g
            p = p - (0.8 * velocity + rate * g if nesterov else velocity)
        np.testing.assert_allclose(got[name], p, atol=1e-5)


@pytest.mark.parametrize("order", [1, -1])
def test_mixed_groups(order):
    """Each group clips its own gradients, decays and multiplies its own parameters."""
    groups = [
        {"match": "encoder/.*", "name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1, "layer_decay": 0.5,
         "weight_decay_multipliers": [["encoder/cls", 2.0]]},
        {"match": "head/.*", "name": "sgd", "learning_rate": 0.5, "learning_rate_multipliers": [[".*/bias", 2.0]]},
    ][::order]  # fmt: skip
    got = three_updates({"groups": groups}, 10)
    for name in ("encoder/cls", "encoder/block_01/fc1/kernel", "encoder/norm/scale"):
        scale = {"cls": 0.125, "block_01": 0.5, "norm": 1.0}[name.split("/")[1]]
        decay = {"encoder/cls": 0.2}.get(name, 0.1 * name.endswith("kernel"))
        np.testing.assert_allclose(got[name], adamw(name, [0.01] * 3, None, decay, scale=scale), atol=1e-5)
    np.testing.assert_allclose(got["head/bias"], momentum("head/bias", [0.5] * 3, None, scale=2.0), atol=1e-5)
    np.testing.assert_allclose(got["head/kernel"], momentum("head/kernel", [0.5] * 3, None), atol=1e-5)


def test_lars_in_a_group():
    groups = [{"match": "encoder/.*", "name": "sgd", "learning_rate": 0.01},
              {"match": "head/.*", "name": "lars", "learning_rate": 2.0, "weight_decay": 0.3}]  # fmt: skip
    alone = three_updates({"name": "lars", "learning_rate": 2.0, "weight_decay": 0.3}, 10)
    got = three_updates({"groups": groups}, 10)
    for name in ("head/kernel", "head/bias"):
        np.testing.assert_allclose(got[name], alone[name], atol=1e-6)
