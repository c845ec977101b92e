"""Products with weights: the same numbers in every shape, and no operand transposed in memory on a CPU."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.nn.platform import computing_on
from vit_jax.nn.products import product

KEY = jax.random.key(0, impl="rbg")
CASES = [((2, 5, 8), (8, 12), 1), ((2, 5, 8), (8, 3, 4), 1), ((2, 5, 3, 4), (3, 4, 8), 2), ((8,), (8, 12), 1)]


@pytest.mark.parametrize(("lhs", "rhs", "axes"), CASES)
def test_is_the_general_product(lhs, rhs, axes):
    x, w = (jax.random.normal(KEY, shape) for shape in (lhs, rhs))
    dimensions = ((tuple(range(len(lhs) - axes, len(lhs))), tuple(range(axes))), ((), ()))
    ours = product(x, w, dimensions, preferred_element_type=jnp.float32)
    np.testing.assert_allclose(ours, jnp.tensordot(x, w, axes), rtol=1e-5, atol=1e-6)


def of_platform(platform):
    """The products and the gradients of a layer, as they are traced for a platform."""
    layer = nn.DenseGeneral((3, 4), dot_general=product)
    variables = layer.init(KEY, jnp.ones((2, 5, 8)))

    def loss(variables, x):
        with computing_on(platform):
            return jnp.square(layer.apply(variables, x)).sum()

    return jax.jit(jax.grad(loss, (0, 1))).trace(variables, jnp.ones((2, 5, 8)))


def test_a_cpu_multiplies_matrices():
    def ranks(platform):
        return {
            len(eqn.invars[0].aval.shape) for eqn in of_platform(platform).jaxpr.eqns if "dot" in str(eqn.primitive)
        }

    assert ranks("cpu") == {2}
    assert 3 in ranks("tpu")  # there as the layer says it


def test_no_operand_is_transposed_for_the_gradient():
    text = of_platform("cpu").lower().compile().as_text()
    assert "dot(" in text and not re.search(r"= \S+ transpose\(", text)
