"""Adafactor as "Scaling Vision Transformers" uses it, against the rule in NumPy, and where its slots live on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.tiny import tiny_config
from vit_jax.planning.rehearsal import rehearse
from vit_jax.training import optim

RNG = np.random.default_rng(0)
PARAMS = {"fc1": {"kernel": RNG.normal(size=(4, 6)), "bias": RNG.normal(size=6)}}
GRADIENTS = [jax.tree.map(lambda x: RNG.normal(size=x.shape), PARAMS) for _ in range(3)]


def rule(name, decay_cap, weight_decay):
    p, m, v, row, column = PARAMS["fc1"][name], 0.0, 0.0, 0.0, 0.0
    for t, gradient in enumerate(GRADIENTS, 1):
        g = gradient["fc1"][name]
        decay = min(1 - t**-0.8, decay_cap)
        if g.ndim == 2:
            row = decay * row + (1 - decay) * (g**2).mean(axis=1)
            column = decay * column + (1 - decay) * (g**2).mean(axis=0)
            v = np.outer(row, column) / row.mean()
        else:
            v = decay * v + (1 - decay) * g**2
        m = 0.9 * m + 0.1 * g / np.sqrt(v)
        p = p - 0.1 * (m + weight_decay * p)
    return p


@pytest.mark.parametrize("decay_cap", [0.999, 0.3])
def test_the_rule(decay_cap):
    section = {"name": "adafactor", "learning_rate": 0.1, "weight_decay": 0.2, "mu_dtype": "float32",
               "min_dim_size_to_factor": 4, "decay_cap": decay_cap}  # fmt: skip
    with jax.enable_x64(True):
        tx, _ = optim.build(section, 10, PARAMS)
        params = jax.tree.map(jnp.asarray, PARAMS)
        state = tx.init(params)
        update = jax.jit(lambda *arguments: tx.update(*arguments, rates={"learning_rate": 0.1}))
        for gradient in GRADIENTS:
            updates, state = update(jax.tree.map(jnp.asarray, gradient), state, params)
            params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["fc1"]["kernel"], rule("kernel", decay_cap, 0.2), rtol=1e-6)
    np.testing.assert_allclose(params["fc1"]["bias"], rule("bias", decay_cap, 0.0), rtol=1e-6)


def test_its_slots_are_half_a_copy_of_the_parameters():
    params = {"kernel": jnp.zeros((256, 512))}
    tx, _ = optim.build({"name": "adafactor", "learning_rate": 0.1}, 10, params)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tx.init(params)))
    assert size < 0.52 * params["kernel"].nbytes


def test_factored_slots_are_not_split_like_their_parameters():
    """A row of the moments has other dimensions than its matrix, and a placeholder has one element."""
    values = tiny_config(optim__name="adafactor", optim__learning_rate=0.1, optim__min_dim_size_to_factor=16,
                         mesh__data=2, mesh__fsdp=2, mesh__tensor=2)  # fmt: skip
    program = rehearse(values, 10, jax.devices()).program
    rows = program.shardings["opt_state"][0].v_row["encoder"]["block_00"]["mlp"]["fc1"]["kernel"]
    whole = program.shardings["opt_state"][1].ema["encoder"]["block_00"]["mlp"]["fc1"]["kernel"]
    assert "tensor" not in rows.spec and "tensor" in whole.spec
