"""What tests/initializers.py makes quicker is as strict as it was."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.errors import NameInUseError, ScopeParamShapeError

ASKED = []


class Scaled(nn.Module):
    scale: float
    twice: bool = False

    @nn.compact
    def __call__(self, x):
        def kernel(key, shape):  # as blocks make them: anew whenever they are applied
            ASKED.append(shape)
            return self.scale * jnp.zeros(shape)

        x = x * self.param("kernel", kernel, x.shape[-1:])
        return x * self.param("kernel", kernel, x.shape[-1:]) if self.twice else x


def test_an_initializer_is_asked_once_and_parameters_of_another_shape_are_refused():
    one, two = jnp.ones((1, 2)), jnp.ones((1, 5))
    params = Scaled(3.0).init(jax.random.key(0), one)
    assert ASKED.pop() == (2,)
    for _ in range(3):
        Scaled(3.0).apply(params, one)
    assert ASKED == [(2,)]
    for _ in range(2):
        with pytest.raises(ScopeParamShapeError):
            Scaled(3.0).apply(params, two)
        with pytest.raises(ScopeParamShapeError):
            Scaled(3.0).apply({"params": {"kernel": jnp.ones((1, 2))}}, one)
        with pytest.raises(NameInUseError):
            Scaled(3.0, twice=True).apply(params, one)
    Scaled(3.0).apply({"params": {"kernel": jnp.ones(5)}}, two)
    with pytest.raises(ScopeParamShapeError):
        Scaled(3.0).apply(params, two)
