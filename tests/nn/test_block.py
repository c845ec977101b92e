"""The encoder block's MLP, dropout, stochastic depth, and its use inside a scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vit_jax.errors import UserError
from vit_jax.nn.block import Block, MlpBlock, drop_path
from vit_jax.nn.style import BlockStyle, Execution

# This generator compiles several times faster than the default one.
KEY = jax.random.key(0, impl="rbg")


def random_params(module, x, seed=0, **kwargs):
    """Parameters of which every leaf is random, so that none hides behind its initial zero or one."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: module.init(KEY, x, **kwargs))["params"]
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def constant_branches(params, attention, mlp):
    """Makes the attention branch add `attention` and the MLP branch add `mlp`, whatever the input."""
    params = jax.tree.map(np.zeros_like, params)
    params["attention"]["out"]["bias"] += attention
    params["mlp"]["fc2"]["bias"] += mlp
    return params


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("traced", [False, True])
def test_drop_path_drops_whole_samples_and_rescales_the_rest(dtype, traced):
    x = jnp.ones((4000, 3, 2), dtype)
    rng = KEY
    run = jax.jit(lambda rate: drop_path(x, rate, rng)) if traced else (lambda rate: drop_path(x, rate, rng))
    out = run(np.float32(0.3) if traced else 0.3)
    assert out.dtype == dtype
    out = np.asarray(out, np.float32)
    kept = out[:, 0, 0] != 0
    assert abs(kept.mean() - 0.7) < 0.03
    np.testing.assert_allclose(out[kept], 1 / 0.7, rtol=5e-3 if dtype == jnp.bfloat16 else 1e-6)
    assert not out[~kept].any()
    np.testing.assert_array_equal(run(0.0), x)


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_mlp_has_the_right_gelu(gelu):
    x = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    mlp = MlpBlock(16, activation=f"gelu_{gelu}")
    params = random_params(mlp, x, train=False)
    hidden = x.astype(np.float64) @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    if gelu == "exact":
        hidden = 0.5 * hidden * (1 + scipy.special.erf(hidden / np.sqrt(2)))
    else:
        hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    expected = hidden @ params["fc2"]["kernel"] + params["fc2"]["bias"]
    np.testing.assert_allclose(mlp.apply({"params": params}, x, train=False), expected, atol=5e-6)


def test_mlp_initial_values():
    params = MlpBlock(64).init(KEY, jnp.zeros((1, 32)), train=False)["params"]
    bound = np.sqrt(6 / (32 + 64))
    for layer in ("fc1", "fc2"):
        assert 0.97 * bound < np.abs(params[layer]["kernel"]).max() <= bound
        assert 5e-7 < params[layer]["bias"].std() < 2e-6


def test_mlp_refuses_an_unknown_activation():
    with pytest.raises(UserError, match="'gelu_exact'"):
        MlpBlock(16, activation="gelu_exakt")


@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_dropout_follows_each_branch(branch):
    x = np.zeros((4, 8, 32), np.float32)
    block = Block(BlockStyle(2, 16, dropout_rate=0.25))
    params = constant_branches(random_params(block, x), attention=branch == "attention", mlp=branch == "mlp")
    train = jax.jit(lambda rng: block.apply({"params": params}, x, train=True, rngs={"dropout": rng})[0])
    out = np.asarray(train(KEY))
    assert abs((out == 0).mean() - 0.25) < 0.05
    np.testing.assert_allclose(out[out != 0], 1 / 0.75, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(block.apply)({"params": params}, x)[0], 1.0, rtol=1e-6)


def test_dropout_follows_the_gelu():
    x = np.zeros((2, 2, 8), np.float32)
    # Every hidden activation is 10 and the output is their mean. What the dropout at the end keeps is 10 / 0.5 times
    # the fraction that the dropout after the GELU kept, doubled: close to 20, but not exactly.
    fc1 = {"kernel": np.zeros((8, 256), np.float32), "bias": np.full(256, 10, np.float32)}
    fc2 = {"kernel": np.full((256, 8), 1 / 256, np.float32), "bias": np.zeros(8, np.float32)}
    mlp = MlpBlock(256, dropout_rate=0.5)
    rngs = {"dropout": KEY}
    out = np.asarray(mlp.apply({"params": {"fc1": fc1, "fc2": fc2}}, x, train=True, rngs=rngs))
    kept = out[out != 0]
    assert kept.size
    assert np.abs(kept - 20).max() > 0.1
    np.testing.assert_allclose(kept, 20, atol=6)


def test_stochastic_depth_is_independent_in_the_two_branches():
    x = np.zeros((256, 2, 8), np.float32)
    block = Block(BlockStyle(2, 16))
    params = constant_branches(random_params(block, x), attention=1, mlp=10)

    def run(rate, train, rngs):
        return block.apply({"params": params}, x, drop_path_rate=rate, train=train, rngs=rngs)[0]

    train = jax.jit(lambda rng: run(0.5, True, {"drop_path": rng}))
    out = np.asarray(train(KEY))
    assert (out == out[:, :1, :1]).all()
    values, counts = np.unique(out[:, 0, 0], return_counts=True)
    np.testing.assert_allclose(values, [0, 2, 20, 22])
    assert counts.min() > 30
    np.testing.assert_allclose(jax.jit(lambda: run(0.5, False, {}))(), 11)


def test_a_known_rate_of_zero_needs_no_rng():
    x = np.ones((2, 3, 8), np.float32)
    block = Block(BlockStyle(2, 16))
    variables = {"params": random_params(block, x)}
    run = jax.jit(block.apply, static_argnames=("drop_path_rate", "train"))
    ways = [run(variables, x, drop_path_rate=rate, train=train)[0] for rate, train in ((0, True), (0.5, False))]
    np.testing.assert_array_equal(*ways)


@pytest.mark.long
def test_stacked_blocks_run_in_a_scan():
    x = np.random.default_rng(2).normal(size=(4, 5, 16)).astype(np.float32)
    block = Block(BlockStyle(2, 32))
    layers = [random_params(block, x, seed) for seed in range(3)]
    rates = np.array([0.0, 0.2, 0.4], np.float32)
    rngs = jax.random.split(KEY, 3)

    @functools.partial(jax.jit, static_argnums=2)
    def step(x, layer, train):
        params, rate, rng = layer
        return block.apply({"params": params}, x, drop_path_rate=rate, train=train, rngs={"drop_path": rng})

    def scanned(train):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        return jax.lax.scan(lambda x, layer: step(x, layer, train), x, (stacked, rates, rngs))[0]

    def looped(train):
        y = x
        for layer in zip(layers, rates, rngs, strict=True):
            y, _ = step(y, layer, train)
        return y

    for train in (False, True):
        np.testing.assert_allclose(jax.jit(scanned, static_argnums=0)(train), looped(train), rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_parameters_and_weights_in_float32():
    x = jnp.ones((1, 3, 8), jnp.bfloat16)
    block = Block(BlockStyle(2, 16), Execution(jnp.bfloat16, sow_attention=True))
    (out, _), variables = jax.eval_shape(block.init_with_output, KEY, x)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert set(variables["params"]) == {"norm1", "attention", "norm2", "mlp"}


@pytest.mark.long
def test_the_hidden_layer_is_dropped_only_where_the_style_says_so():
    """Without it each value of the result is the whole one, or dropped as a whole."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    whole, scaled = {}, {}
    for hidden in (False, True):
        mlp = MlpBlock(16, dropout_rate=0.5, hidden_dropout=hidden)
        params = mlp.init(jax.random.key(1), x, train=False)
        whole[hidden] = mlp.apply(params, x, train=False)
        dropped = mlp.apply(params, x, train=True, rngs={"dropout": jax.random.key(2)})
        ratio = np.asarray(dropped / whole[hidden])
        scaled[hidden] = np.isclose(ratio, 0, atol=1e-5) | np.isclose(ratio, 2, atol=1e-4)
    np.testing.assert_array_equal(whole[False], whole[True])
    assert scaled[False].all() and not scaled[True].all()
