"""Linear attention: equal to the quadratic form, in half precision too, and all scales in two convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.nn.linear_attention import MultiScaleLinearAttention, linear_attention, linear_weights
from vit_jax.nn.platform import computing_on


def heads(tokens, width, seed=0):
    return np.random.default_rng(seed).normal(size=(3, 2, tokens, 2, width)).astype(np.float32)


def by_the_formula(q, k, v, epsilon=1e-15):
    """The first line of the module, in float64."""
    q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k, v))
    similar = np.einsum("bthd,bshd->bhts", np.maximum(q, 0), np.maximum(k, 0))
    return np.einsum("bhts,bshd->bthd", similar / (similar.sum(-1, keepdims=True) + epsilon), v)


@pytest.mark.parametrize("tokens", [1, 8, 9, 300])  # on both sides of the head's 8 features
def test_linear_is_the_quadratic_form(tokens):
    q, k, v = heads(tokens, 8)
    found = jax.jit(linear_attention)(q, k, v)
    np.testing.assert_allclose(found, by_the_formula(q, k, v), atol=1e-5)
    written_out = np.einsum("bhts,bshd->bthd", jax.jit(linear_weights)(q, k), v)
    np.testing.assert_allclose(found, written_out, atol=1e-5)


@pytest.mark.parametrize("tokens", [8, 1000])
def test_half_precision_rounds_inputs_and_outputs_alone(tokens):
    """Sums are float32: in bfloat16 a thousand keys would stop adding up."""
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in heads(tokens, 8))
    v = v + 4  # a large mean, which sums in half precision lose
    found = jax.jit(linear_attention)(q, k, v)
    assert found.dtype == jnp.bfloat16
    exact = by_the_formula(*(x.astype(jnp.float32) for x in (q, k, v)))
    # All but ties are the float64 result, rounded once.
    assert (found == jnp.asarray(exact, jnp.float32).astype(jnp.bfloat16)).mean() > 0.99


def test_the_cost_is_not_quadratic():
    """No array has queries times keys, which the quadratic form has."""
    shapes = [jax.ShapeDtypeStruct((1, 512, 1, 8), np.float32)] * 3
    assert "512,512" not in str(jax.make_jaxpr(linear_attention)(*shapes))
    assert "512,512" in str(jax.make_jaxpr(linear_weights)(*shapes[:2]))


def test_keys_without_anything_similar_give_nothing_and_no_gradient_that_is_not_finite():
    q, _, v = heads(20, 8)
    k = -np.ones_like(q)
    found, gradients = jax.jit(jax.value_and_grad(lambda *x: linear_attention(*x).sum(), (0, 1, 2)))(q, k, v)
    assert found == 0
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def module(**arguments):
    layer = MultiScaleLinearAttention(4, **arguments)
    x = np.random.default_rng(1).normal(size=(2, 5, 6, 8)).astype(np.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.2, 1.0, leaf.shape).astype(np.float32) - 0.3, variables)
    statistics = jax.tree.map(np.abs, variables["batch_stats"])
    return layer, {**variables, "batch_stats": statistics}, x


def test_each_scale_has_heads_of_its_own_and_each_head_its_query_key_and_value_side_by_side():
    layer, variables, x = module()
    found, sown = jax.jit(lambda v: layer.apply(v, x, mutable=["intermediates"]))(variables)
    p = variables["params"]
    qkv = x @ p["qkv"]["kernel"][0, 0]
    padded = np.pad(qkv, ((0, 0), (2, 2), (2, 2), (0, 0)))
    kernel = p["depthwise_5"]["kernel"][:, :, 0]
    gathered = sum(padded[:, i : i + 5, j : j + 6] * kernel[i, j] for i in range(5) for j in range(5))
    matrices = p["grouped_5"]["kernel"][0, 0].reshape(4, 6, 4)  # 2 heads of 3 groups
    gathered = np.einsum("bhwgi,igo->bhwgo", gathered.reshape(2, 5, 6, 6, 4), matrices).reshape(qkv.shape)
    outputs = []
    for scale in (qkv, gathered):
        for head in range(2):
            q, k, v = (scale[..., 12 * head + 4 * i : 12 * head + 4 * i + 4].reshape(2, 30, 1, 4) for i in range(3))
            outputs.append(by_the_formula(q, k, v).reshape(2, 5, 6, 4))
    norm, stats = p["proj"]["norm"], variables["batch_stats"]["proj"]["norm"]
    projected = np.concatenate(outputs, -1) @ p["proj"]["conv"]["kernel"][0, 0]
    expected = (projected - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert sown["intermediates"]["queries"][0].shape == (2, 30, 4, 4)


def test_all_heads_are_gathered_in_two_convolutions():
    layer, variables, x = module()
    for platform, extra in (("gpu", 4), ("cpu", 0)):
        with computing_on(platform):
            program = str(jax.make_jaxpr(lambda v, x: layer.apply(v, x))(variables, x))
        # qkv, depthwise, grouped, proj; on a CPU all four are products.
        assert program.count("conv_general_dilated[") == extra
    _, variables, _ = module(scales=())
    assert set(variables["params"]) == {"qkv", "proj"}


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UserError, match="10 channels do not divide into heads of 4"):
        MultiScaleLinearAttention(4).init(jax.random.key(0), np.zeros((1, 3, 3, 10), np.float32))
