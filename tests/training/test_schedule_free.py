"""Schedule-free training beside optax's, whose parameters are the other sequence; and where its gradients are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import schedule_free_adamw, schedule_free_eval_params

from tests.three_steps import PARAMS, assert_same
from tests.tiny import tiny_config
from vit_jax.planning.rehearsal import rehearse
from vit_jax.training import optim
from vit_jax.training.schedule_free import begun_at, gradient_point

SECTION = {"name": "schedule_free_adamw", "learning_rate": 0.1, "weight_decay": 0.3, "b1": 0.8,
           "weight_decay_multipliers": [[".*", 1.0]]}  # fmt: skip
SGD = {"match": "head/.*", "name": "sgd", "learning_rate": 0.0}


def slope(params):
    """The gradient of a loss at these parameters."""
    return jax.tree.map(lambda p, target: p - target, params, TARGET)


TARGET = jax.tree.map(lambda x: x[::-1], PARAMS)


def steps(tx, params, point):
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(slope(point(params, state)), state, params, rates={"learning_rate": 0.1})
        params = optax.apply_updates(params, updates)
    return params, state


def test_the_parameters_are_what_optax_has_for_evaluation():
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, PARAMS)
        ours, state = steps(optim.build(SECTION, 10, params)[0], params, gradient_point)
        theirs = schedule_free_adamw(0.1, b1=0.8, weight_decay=0.3)
        y, their_state = steps(optax.with_extra_args_support(theirs), params, lambda params, state: params)
        assert_same(ours, schedule_free_eval_params(their_state, y))
        assert_same(gradient_point(ours, state), y)


def test_only_its_group_has_its_gradient_elsewhere_and_begins_at_what_is_loaded():
    tx, _ = optim.build({"groups": [SGD, {"match": ".*", **SECTION, "weight_decay_multipliers": []}]}, 10, PARAMS)
    state = tx.init(jax.tree.map(jnp.float32, PARAMS))
    loaded = jax.tree.map(lambda p: jnp.float32(p + 1.0), PARAMS)
    point = gradient_point(loaded, state)
    np.testing.assert_allclose(point["block"]["bias"], PARAMS["block"]["bias"] + 0.8, rtol=1e-6)
    assert point["head"]["kernel"] is loaded["head"]["kernel"]
    assert_same(gradient_point(loaded, begun_at(loaded, state)), loaded, rtol=1e-6)


def test_another_optimizer_pays_nothing():
    state = optim.build({"name": "adamw", "learning_rate": 0.1}, 10, PARAMS)[0].init(PARAMS)
    assert gradient_point(PARAMS, state) is PARAMS and begun_at(PARAMS, state) is state


def test_what_is_not_averaged_lies_on_the_mesh_as_its_parameter():
    """Beside a frozen part, decay by layers and a climb to where the loss is higher."""
    values = tiny_config(optim__name="schedule_free_adamw", optim__learning_rate=0.1, optim__layer_decay=0.5,
                         optim__sam__rho=0.1, optim__frozen=["encoder/embedding/.*"],
                         mesh__data=2, mesh__fsdp=2, mesh__tensor=2)  # fmt: skip
    program = rehearse(values, 10, jax.devices()).program
    z, params = program.shardings["opt_state"].z["encoder"], program.shardings["params"]["encoder"]
    assert "embedding" in params and "embedding" not in z
    assert z["block_00"] == params["block_00"] and "tensor" in z["block_00"]["mlp"]["fc1"]["kernel"].spec
