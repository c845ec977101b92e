"""A few parameters with three gradients, and what an optimizer of ours makes of them in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.training import optim

RNG = np.random.default_rng(0)
PARAMS = {
    "block": {"kernel": RNG.normal(size=(4, 6)), "bias": RNG.normal(size=6)},
    "head": {"kernel": RNG.normal(size=(6, 3))},
}
GRADIENTS = [jax.tree.map(lambda x: RNG.normal(size=x.shape), PARAMS) for _ in range(3)]
LAYERS = (("block",),)


def trained(section, params=PARAMS, gradients=GRADIENTS, layers=LAYERS):
    """The parameters after three steps, in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        tx, rates = optim.build(section, 10, params, layers=layers)
        state = tx.init(params)
        for step, gradient in enumerate(gradients):
            own = {name: rate(step) for name, rate in rates.items()}
            updates, state = tx.update(jax.tree.map(jnp.asarray, gradient), state, params, rates=own)
            params = optax.apply_updates(params, updates)
        return jax.tree.map(np.asarray, params)


def assert_same(got, expected, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14), got, expected)
