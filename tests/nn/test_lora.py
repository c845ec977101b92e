"""LoRA as a function of parameters: which matrix a kernel is, and what a product of low rank does to it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.nn.lora import LORA, LoRA, first_outputs, fresh_factors, merged

RNG = np.random.default_rng(0)
# A kernel's shape -> how many of its axes are inputs.
SHAPES = {(6, 10): 1, (8, 2, 4): 1, (2, 4, 8): 2, (3, 3, 4, 5): 3, (16, 16, 3, 768): 3}


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("shape", "inputs"), SHAPES.items())
def test_a_kernel_is_a_matrix_from_its_inputs_to_its_outputs(shape, inputs):
    assert first_outputs(shape) == inputs
    factors = fresh_factors(jax.random.key(0), shape, 2)
    assert factors["a"].shape == (*shape[:inputs], 2) and factors["b"].shape == (2, *shape[inputs:])
    bound = math.prod(shape[:inputs]) ** -0.5
    assert 0.5 * bound < abs(factors["a"]).max() <= bound and not factors["b"].any()


@pytest.mark.parametrize("shape", list(SHAPES)[:-1])
def test_any_update_of_a_kernel_is_a_product_of_full_rank(shape):
    kernel, update = random(*shape), random(*shape)
    cut = SHAPES[shape]
    matrix = update.reshape(math.prod(shape[:cut]), -1).astype(np.float64)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    lora = LoRA(rank=len(s), alpha=2.0 * len(s))
    a = (u * s / lora.scale).reshape(*shape[:cut], -1).astype(np.float32)
    b = v.reshape(-1, *shape[cut:]).astype(np.float32)
    tree = {"encoder": {"kernel": kernel, "bias": kernel[0]}, "head": {"kernel": kernel}}
    found = merged({**tree, LORA: {"encoder": {"kernel": {"a": a, "b": b}}}}, lora.scale)
    np.testing.assert_allclose(found["encoder"]["kernel"], kernel + update, atol=3e-6)
    # What has no adapter is the array itself, and nothing given is changed.
    assert found["encoder"]["bias"] is tree["encoder"]["bias"] and found["head"]["kernel"] is kernel
    assert set(found) == {"encoder", "head"} and tree["encoder"]["kernel"] is kernel
    assert merged(tree, 1.0) == tree


def test_gradients_by_hand_in_float64():
    """y = x (W + s A B): of the loss <g, y> they are s x' g B' and s A' x' g."""
    kernel, a, b, x, g = random(6, 2, 4), random(6, 3), random(3, 2, 4), random(5, 6), random(5, 2, 4)

    def loss(factors):
        params = merged({"kernel": kernel, LORA: {"kernel": factors}}, 0.5)
        return (jnp.tensordot(x, params["kernel"], 1) * g).sum()

    found = jax.grad(loss)({"a": a, "b": b})
    a, b, x, g = (v.astype(np.float64) for v in (a, b, x, g))
    by_kernel = x.T @ g.reshape(5, -1)
    np.testing.assert_allclose(found["a"], 0.5 * by_kernel @ b.reshape(3, -1).T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["b"].reshape(3, -1), 0.5 * a.T @ by_kernel, rtol=1e-5, atol=1e-5)
