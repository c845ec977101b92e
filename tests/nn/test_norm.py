"""Layer normalisation against float64 NumPy, far from zero too, and against Flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.nn.norm import LayerNorm


def reference(x, scale, bias, epsilon):
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def parameters(width):
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=width).astype(np.float32) for name in ("scale", "bias")}


@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (1e3, 1), (-50, 1e-2), (0, 1e4)])
def test_equals_float64(mean, deviation):
    x = np.random.default_rng(0).normal(mean, deviation, (7, 3, 96)).astype(np.float32)
    p = parameters(96)
    out = jax.jit(LayerNorm(1e-6).apply)({"params": p}, x)
    # What float32 resolves of a number that large, relative to the spread.
    np.testing.assert_allclose(out, reference(x, **p, epsilon=1e-6), atol=1e-5 + 1e-6 * abs(mean) / deviation)


def test_an_outlier_in_the_first_place():
    x = np.random.default_rng(0).normal(size=(5, 384)).astype(np.float32)
    x[:, 0] += 1e3
    p = parameters(384)
    np.testing.assert_allclose(LayerNorm().apply({"params": p}, x), reference(x, **p, epsilon=1e-6), atol=1e-3)


def test_constant_rows_are_zero_before_the_bias():
    out = LayerNorm().apply({"params": parameters(8) | {"bias": np.zeros(8)}}, jnp.full((2, 8), 3.3))
    np.testing.assert_array_equal(out, 0)


def test_gradients_and_parameters_equal_those_of_flax():
    x = np.random.default_rng(0).normal(2.0, 1.5, (4, 6, 32)).astype(np.float32)
    ours, theirs = LayerNorm(1e-3), nn.LayerNorm(epsilon=1e-3, use_fast_variance=False)
    initial = [module.init(jax.random.key(0), x) for module in (ours, theirs)]
    assert jax.tree.structure(initial[0]) == jax.tree.structure(initial[1])
    jax.tree.map(np.testing.assert_array_equal, *initial)
    gradients = [
        jax.jit(jax.grad(lambda p, x, m=m: (m.apply({"params": p}, x) ** 3).sum(), argnums=(0, 1)))(parameters(32), x)
        for m in (ours, theirs)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *gradients)


def test_half_precision_is_computed_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 64)), jnp.bfloat16)
    p = parameters(64)
    out = LayerNorm(dtype=jnp.bfloat16).apply({"params": p}, x)
    assert out.dtype == jnp.bfloat16
    expected = reference(np.asarray(x, np.float32), **p, epsilon=1e-6).astype(jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(out, np.float32), np.asarray(expected, np.float32))
