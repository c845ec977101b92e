"""Scan and remat are ways to run the same encoder: same parameters, outputs, gradients and statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.models.vit import build
from vit_jax.nn.init_shapes import init_shapes

KEY = jax.random.key(0, impl="rbg")
WAYS = [(True, "none"), (False, "full")]
REST = [(True, "dots"), (True, "full"), (False, "dots"), (True, "elementwise"), (False, "elementwise")]
WAYS += [pytest.param(*way, marks=pytest.mark.long) for way in REST]


def encoder(**kwargs):
    defaults = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "class_token": True}
    return build("B/4", num_classes=0, pooling="mean", **{**defaults, **kwargs}).encoder


def images(batch=2, size=8):
    return np.random.default_rng(9).normal(size=(batch, size, size, 3)).astype(np.float32)


def random_params(model, seed=0):
    rng = np.random.default_rng(seed)
    shapes = init_shapes(model.init, KEY, images())["params"]
    return jax.tree.map(lambda leaf: rng.normal(0.5, 0.3, leaf.shape).astype(np.float32), shapes)


def value_and_gradients(model, params, **kwargs):
    def loss(params):
        tokens = model.apply({"params": params}, images(), **kwargs)
        return (tokens.astype(jnp.float32) ** 2 * jnp.arange(16)).mean(), tokens

    (_, tokens), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return tokens, gradients


@pytest.fixture(scope="module")
def expected():
    params = random_params(encoder())
    return params, *value_and_gradients(encoder(), params)


@pytest.mark.long
@pytest.mark.parametrize(("scan", "remat"), WAYS)
def test_outputs_and_gradients_equal_the_loop(expected, scan, remat):
    params, tokens, gradients = expected
    ours = value_and_gradients(encoder(scan=scan, remat=remat), params)
    np.testing.assert_allclose(ours[0], tokens, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 1e-6), ours[1], gradients)


@pytest.mark.long
def test_half_precision_equals_the_loop_and_gradients_are_float32():
    params = random_params(encoder())
    loop, scan = (value_and_gradients(encoder(dtype="bfloat16", scan=s), params) for s in (False, True))
    np.testing.assert_allclose(loop[0].astype(np.float32), scan[0].astype(np.float32), atol=0.1)
    assert scan[0].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(scan[1])} == {jnp.dtype("float32")}


@pytest.mark.long
@pytest.mark.parametrize(("scan", "remat"), [(True, "full"), (False, "dots")])
def test_parameters_are_those_of_the_loop(scan, remat):
    options = {"drop_path_rate": 0.1, "dropout_rate": 0.1}
    ways = ({}, {"scan": scan, "remat": remat})
    plain, ours = (jax.jit(encoder(**options, **way).init)(KEY, images()) for way in ways)
    assert jax.tree.structure(plain) == jax.tree.structure(ours)
    jax.tree.map(np.testing.assert_array_equal, plain, ours)


@pytest.mark.slow
def test_remat_alone_draws_the_same_masks():
    rngs = {"dropout": KEY, "drop_path": jax.random.fold_in(KEY, 1)}
    options = {"dropout_rate": 0.2, "attention_dropout_rate": 0.2, "drop_path_rate": 0.3}
    params = random_params(encoder())
    loop = value_and_gradients(encoder(**options), params, train=True, rngs=rngs)
    ours = value_and_gradients(encoder(**options, remat="full"), params, train=True, rngs=rngs)
    np.testing.assert_allclose(ours[0], loop[0], atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 1e-6), ours[1], loop[1])


def counting_params(model):
    """Zeros, but the attention of block i adds 100**i / 100 to the residual stream: a sum tells which blocks added."""
    params = jax.tree.map(np.zeros_like, random_params(model))
    for i in range(model.depth):
        params[f"block_{i:02d}"]["attention"]["out"]["bias"] += 100.0**i / 100
    params["norm"]["scale"] += 1
    return params


def stream(model, params, x, rngs):
    """The residual stream before the final norm, whose input is caught."""
    captured = {}

    def catch(next_function, args, kwargs, context):
        if context.module.name == "norm" and context.method_name == "__call__":
            captured["x"] = args[0]
        return next_function(*args, **kwargs)

    @jax.jit
    def run(params, x, rngs):
        with nn.intercept_methods(catch):
            model.apply({"params": params}, x, train=True, rngs=rngs)
        return captured.pop("x")

    return np.asarray(run(params, x, rngs))


@pytest.mark.parametrize("remat", ["none", pytest.param("full", marks=pytest.mark.long)])
def test_scanned_blocks_drop_paths_at_their_own_rates(remat):
    model = encoder(depth=3, drop_path_rate=0.5, scan=True, remat=remat, class_token=False, class_token_posemb=False)
    params = counting_params(model)
    x = np.zeros((1024, 8, 8, 3), np.float32)
    out = stream(model, params, x, {"drop_path": KEY})[:, 0, 0]
    np.testing.assert_array_equal(out, stream(model, params, x, {"drop_path": KEY})[:, 0, 0])
    assert (out != stream(model, params, x, {"drop_path": jax.random.key(5)})[:, 0, 0]).any()
    third = out > 150  # 200 of the last block, at most 1.34 and 0.01 of the others
    rest = out - 200 * third
    second = rest > 1
    np.testing.assert_allclose([1 - second.mean(), 1 - third.mean()], [0.25, 0.5], atol=0.06)
    np.testing.assert_allclose(rest - second / 0.75, 0.01, atol=1e-4)
    assert abs((second == third).mean() - 0.5) < 0.06, "two blocks drew the same samples"


def test_scanned_blocks_drop_activations_by_masks_of_their_own():
    model = encoder(dropout_rate=0.25, scan=True, depth=2)
    params = counting_params(model)
    out = stream(model, params, images(32) * 0, {"dropout": KEY})
    second = out > 0.5
    first = out - second / 0.75 > 0.005
    for kept in (first, second):
        assert abs(kept.mean() - 0.75) < 0.02
    assert abs((first == second).mean() - (0.75**2 + 0.25**2)) < 0.02


def test_outside_training_no_rng_is_asked_for():
    model = encoder(dropout_rate=0.5, attention_dropout_rate=0.5, drop_path_rate=0.5, scan=True)
    params = random_params(model)
    plain = jax.jit(encoder().apply)({"params": params}, images())
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, images()), plain, atol=2e-5)


def test_a_scan_compiles_one_block():
    def dots(scan):
        model = encoder(depth=6, scan=scan)
        text = jax.jit(model.apply).lower({"params": random_params(model)}, images()).as_text()
        return text.count("dot_general")

    assert dots(True) < dots(False) / 3


@pytest.mark.parametrize("scan", [False, pytest.param(True, marks=pytest.mark.long)])
def test_remat_recomputes(scan):
    def operations(remat):
        model = encoder(remat=remat, scan=scan)
        loss = lambda params: model.apply({"params": params}, images()).sum()  # noqa: E731
        text = jax.jit(jax.grad(loss)).lower(random_params(model)).as_text()
        return text.count("stablehlo.exponential"), text.count("dot_general")

    found = {remat: operations(remat) for remat in ("none", "elementwise", "dots", "full")}
    exponentials, products = ([counts[i] for counts in found.values()] for i in (0, 1))
    assert exponentials[0] < exponentials[1] == exponentials[2] == exponentials[3]
    assert products[0] < products[1] == products[2] < products[3], "attention again, or all"


def test_no_blocks_to_scan():
    model = encoder(depth=0, scan=True)
    assert model.apply({"params": random_params(model)}, images()).shape == (2, 5, 16)


@pytest.mark.parametrize(
    ("kwargs", "what"),
    [
        ({"scan": True, "sow_attention": True}, "cannot sow attention weights"),
        ({"remat": "dot"}, "config.model.remat is 'dot'. Did you mean 'dots'"),
    ],
)
def test_wrong_values_are_user_errors(kwargs, what):
    with pytest.raises(UserError, match=what):
        build("B/16", num_classes=10, **kwargs)


def test_the_options_reach_the_encoder():
    model = build("S/16", num_classes=2, scan=True, remat="dots")
    assert (model.encoder.execution.scan, model.encoder.execution.remat) == (True, "dots")
