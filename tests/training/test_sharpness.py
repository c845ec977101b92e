"""Sharpness-aware steps against the rule in NumPy, in float64, of a whole batch and of parts of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.tasks import Task
from vit_jax.training import optim
from vit_jax.training.scalars import as_uint32
from vit_jax.training.sharpness import sharpness_aware
from vit_jax.training.step import make_update

RNG = np.random.default_rng(0)
BATCH = {"x": RNG.normal(size=(4, 3)), "y": RNG.normal(size=4)}
W, OFFSET = RNG.normal(size=3), RNG.normal()
RATE, RHO = 0.001, 0.7


@dataclasses.dataclass(frozen=True)
class Line(Task):
    """A line with an offset that is frozen; the fourth power makes the loss curved."""

    def loss(self, variables, batch, rng, step):
        params = variables["params"]
        value = jnp.mean((batch["x"] @ params["w"] + params["offset"] - batch["y"]) ** 4)
        return value, ({"loss": (value, jnp.float32(1))}, {})


def gradient(w):
    residual = BATCH["x"] @ w + OFFSET - BATCH["y"]
    return (4 * residual**3) @ BATCH["x"] / 4


@pytest.mark.parametrize("microbatch", [None, 2])
def test_the_rule(microbatch):
    frozen = {"w": False, "offset": True}
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(W), "offset": jnp.asarray(OFFSET)}
        tx, rates = optim.build({"name": "sgd", "learning_rate": RATE, "momentum": 0.0}, 10, {"w": params["w"]})
        update = make_update(
            Line(), tx, on_device=lambda batch, rng: batch, frozen=frozen, microbatch=microbatch,
            sharpness=sharpness_aware({"rho": RHO}, {}),
        )  # fmt: skip
        state = {"step": jnp.int32(0), "params": params, "model_state": {}, "opt_state": tx.init({"w": params["w"]})}
        scalars = {"seed": as_uint32(0), "rates": {name: rate(0) for name, rate in rates.items()}}
        for _ in range(3):
            state, metrics, finite = jax.jit(update, static_argnums=3)(
                state, jax.tree.map(jnp.asarray, BATCH), scalars, None
            )
    w = W
    for _ in range(3):
        before, climb = w, gradient(w)
        w = w - RATE * gradient(w + RHO * climb / np.linalg.norm(climb))
    np.testing.assert_allclose(state["params"]["w"], w, rtol=1e-12)
    assert float(state["params"]["offset"]) == OFFSET and finite
    # What is logged is the loss before the climb, and the norm of the gradient that the optimizer got.
    loss = np.mean((BATCH["x"] @ before + OFFSET - BATCH["y"]) ** 4)
    total, weight = map(float, metrics["loss"])
    np.testing.assert_allclose(total / weight, loss, rtol=1e-12)
    np.testing.assert_allclose(metrics["gradient_norm"][0], np.linalg.norm(before - w) / RATE, rtol=1e-12)


def test_where_nothing_slopes_there_is_no_climb():
    point = sharpness_aware({}, {}).climbed({"w": jnp.ones(3)}, {"w": jnp.zeros(3)})
    np.testing.assert_array_equal(point["w"], np.ones(3))


@pytest.mark.parametrize(
    ("section", "groups", "message"),
    [
        ({"rho": 0}, None, "config.optim.sam.rho is 0. It must be a number above 0"),
        ({"roh": 0.1}, None, "'config.optim.sam.roh'. Did you mean 'rho'"),
        (0.05, None, r"config.optim.sam is 0.05. It must be a section such as dict\(rho=0.05\)"),
        ({}, [{"match": "a"}, {"match": "b", "every": 2}], "some groups of config.optim do not learn in every step"),
        ({}, [{"match": "a"}, {"match": "b", "from_step": 2}], "Remove it, or each 'every' and 'from_step'"),
    ],
)
def test_mistakes_get_a_sentence(section, groups, message):
    with pytest.raises(UserError, match=message):
        sharpness_aware(section, {"groups": groups} if groups else {})
