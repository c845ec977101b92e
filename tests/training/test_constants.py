"""Constants of a model: what training leaves alone, whatever a loss makes of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.checkpoints import average
from vit_jax.nn.constants import constant
from vit_jax.tasks import Task
from vit_jax.training.state import init_state, variables_of
from vit_jax.training.step import make_update

SCALARS = {"seed": jnp.uint32(0), "rates": {}, "ema": {"old": jnp.float32(0.7), "new": jnp.float32(0.3)}}


class Fourier(nn.Module):
    @nn.compact
    def __call__(self, x):
        waves = jnp.sin(x @ constant(self, "matrix", jax.random.normal, (2, 3)))
        return nn.Dense(1)(waves)


class Fit(Task):
    """Its loss gives back a state that has been meddled with."""

    def loss(self, variables, batch, rng, step):
        state = variables["model_state"]
        values = Fourier().apply({"params": variables["params"], **state}, batch["x"])
        return jnp.square(values).mean(), (
            {"loss": (values.sum(), jnp.float32(len(values)))},
            jax.tree.map(jnp.zeros_like, state),
        )


@pytest.mark.parametrize("microbatch", [None, 2])
def test_an_update_hands_constants_on_as_they_are(microbatch):
    variables = Fourier().init(jax.random.key(0), jnp.ones((1, 2)))
    assert jax.tree.map(jnp.shape, variables["constants"]) == {"matrix": (2, 3)}
    state = {"params": variables["params"], "model_state": {"constants": variables["constants"]}}
    before = np.array(variables["constants"]["matrix"])
    tx = optax.with_extra_args_support(optax.adam(0.1))
    frozen = jax.tree.map(lambda _: False, state["params"])
    state = init_state(state, tx, frozen, [".*"])
    # No slot and no average: a second matrix of this shape is nowhere.
    assert sum(leaf.shape == (2, 3) for leaf in jax.tree.leaves(state)) == 1
    update = jax.jit(
        make_update(Fit(), tx, on_device=lambda batch, rng: batch, frozen=frozen, microbatch=microbatch),
        static_argnums=3,
    )
    for _ in range(2):
        state, _, finite = update(state, {"x": jnp.ones((4, 2))}, SCALARS, None)
    assert finite
    for product in ("params", "ema"):
        found = variables_of(state, product)["model_state"]
        np.testing.assert_array_equal(found["constants"]["matrix"], before)


def test_the_mean_of_checkpoints_has_the_constants_of_each(monkeypatch):
    constants = {"constants": {"matrix": jnp.ones(2)}}
    params = iter([{"w": jnp.float32(1)}, {"w": jnp.float32(3)}])
    monkeypatch.setattr(average.store, "read_params", lambda *_: (next(params), constants))
    mean, state = average.read_averaged(["a", "b"], "params", True, dict)
    assert float(mean["w"]) == 2 and state == constants
