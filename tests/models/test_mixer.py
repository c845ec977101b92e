"""MLP-Mixer: published sizes, one resolution, stochastic depth, errors; the numbers are in tests/parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.drawn import drawn
from vit_jax.errors import UserError
from vit_jax.models.mixer import MixerBlock, MixerStyle, build
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.parameter_count import parameter_count

KEY = jax.random.key(0, impl="rbg")
TINY = {"variant": "S/8", "width": 16, "depth": 3, "tokens_mlp_dim": 12, "channels_mlp_dim": 24}


# Counts of the original repository (B/16, B/32, L/16) and of timm (S, L/32), at 224 pixels with 1000 classes.
@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("S/32", 19_104_624),
        ("S/16", 18_528_264),
        ("B/16", 59_880_472),
        ("b/32", 60_293_428),
        ("L/16", 208_196_168),
        ("L/32", 206_939_264),
    ],
)
def test_parameter_counts(variant, count):
    assert parameter_count(build(variant, num_classes=1000), 224) == count


# MLP-Mixer, table 1, in millions, without the head.
def test_the_largest():
    assert round(parameter_count(build("H/14", num_classes=0), 224) / 1e6) == 431


def images(height=32, width=24):
    return np.random.default_rng(0).normal(size=(4, height, width, 3)).astype(np.float32)


@pytest.mark.long
def test_names_and_initial_values():
    model = build(num_classes=3, head_bias_init=-1.0, **TINY)
    out, variables = jax.jit(model.init_with_output)(KEY, images())
    params = variables["params"]
    assert set(params) == {"encoder", "head"}
    assert set(params["encoder"]) == {"embedding", "block_00", "block_01", "block_02", "norm"}
    assert set(params["encoder"]["block_01"]) == {"norm1", "token_mixing", "norm2", "channel_mixing"}
    assert params["encoder"]["block_00"]["token_mixing"]["fc1"]["kernel"].shape == (12, 12)
    np.testing.assert_array_equal(out["logits"], np.full((4, 3), -1.0, np.float32))
    np.testing.assert_allclose(out["features"], out["tokens"].mean(1), rtol=1e-4, atol=1e-6)
    biases = [x for path, x in jax.tree_util.tree_leaves_with_path(params["encoder"]) if path[-1].key == "bias"]
    assert not any(np.any(bias) for bias in biases)


def test_another_resolution_is_one_clear_sentence():
    model = build(num_classes=3, **TINY)
    variables = init_shapes(model.init, KEY, images())
    with pytest.raises(UserError, match=r"images have 4x4 patches, but .* mix 12 tokens"):
        jax.eval_shape(model.apply, variables, images(32, 32))
    with pytest.raises(UserError, match="does not divide into patches"):
        jax.eval_shape(model.apply, variables, images(30, 24))


@pytest.mark.parametrize("part", ["token_mixing", "channel_mixing"])
def test_what_each_part_mixes(part):
    block = MixerBlock(MixerStyle(tokens_mlp_dim=6, channels_mlp_dim=10))
    x = np.random.default_rng(1).normal(size=(1, 5, 8)).astype(np.float32)
    params = drawn(block.init, KEY, x)["params"]
    for other in {"token_mixing", "channel_mixing"} - {part}:
        params[other] = jax.tree.map(jnp.zeros_like, params[other])
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda x: block.apply({"params": params}, x)[0]))(x))[0, :, :, 0]
    # Does a token feel another one? The norms alone let a channel feel all channels of its token.
    assert (np.abs(jacobian).max((1, 3)) > 0).all() == (part == "token_mixing")
    assert (np.abs(jacobian).max((0, 2)) > 0).all()


@pytest.mark.long
def test_stochastic_depth():
    model = build(num_classes=0, drop_path_rate=0.9, **TINY)
    variables = drawn(model.init, KEY, images())

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def run(model, seed, train=True):
        return model.apply(variables, images(), train=train, rngs={"drop_path": jax.random.key(seed)})["tokens"]

    still = run(model, 0, train=False)
    np.testing.assert_array_equal(still, run(build(num_classes=0, **TINY), 0))
    assert np.any(run(model, 0) != run(model, 1))
    # big_vision does not divide what stays: a sample that keeps all of its branches is as in evaluation.
    block = MixerBlock(MixerStyle(tokens_mlp_dim=6, channels_mlp_dim=10))
    x = np.random.default_rng(1).normal(size=(64, 5, 8)).astype(np.float32)
    params = drawn(block.init, KEY, x)
    rng = {"drop_path": jax.random.key(3)}
    train = jax.jit(functools.partial(block.apply, drop_path_rate=0.5, train=True))
    kept = np.asarray(train(params, x, rngs=rng)[0])
    whole = np.asarray(jax.jit(block.apply)(params, x)[0])
    assert 0.05 < np.isclose(kept, whole, atol=1e-5).all((1, 2)).mean() < 0.5
    assert 0.05 < (kept == x).all((1, 2)).mean() < 0.5


@pytest.mark.parametrize(
    "execution",
    [
        {"scan": True, "remat": "full"},
        pytest.param({"scan": True}, marks=pytest.mark.long),
        pytest.param({"remat": "elementwise"}, marks=pytest.mark.long),
    ],
)
def test_scan_and_remat_equal_the_loop(execution):
    plain, other = (build(num_classes=3, **{**TINY, "depth": 2}, **e) for e in ({}, execution))
    params = jax.tree.map(
        lambda leaf: np.random.default_rng(0).normal(0, 0.3, leaf.shape).astype(np.float32),
        init_shapes(plain.init, KEY, images())["params"],
    )

    def gradient(model):
        return jax.jit(jax.grad(lambda p: (model.apply({"params": p}, images())["logits"] ** 2).sum()))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 1e-6),
        gradient(other), gradient(plain),
    )  # fmt: skip


def test_bfloat16_computes_and_float32_stays():
    model = build(num_classes=3, dtype="bfloat16", **TINY)
    variables = init_shapes(model.init, KEY, images())
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    out = jax.eval_shape(model.apply, variables, images())
    assert out["tokens"].dtype == jnp.bfloat16 and out["logits"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"variant": "X/16"}, r"no Mixer 'X/16'"),
        ({"variant": "B16"}, r"no Mixer 'B16'.*'B/16'"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
        ({"dtype": "float16"}, "compute in 'float16'"),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(UserError, match=message):
        build(num_classes=3, **TINY | kwargs)
