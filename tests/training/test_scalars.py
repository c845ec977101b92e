"""What a step takes as arguments: the programs of runs that differ only in it are one."""

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax.planning.rehearsal import rehearse
from vit_jax.training.scalars import as_uint32, put_scalars, scalars_at, unpacked
from vit_jax.training.schedules import Constant
from vit_jax.training.sharding import make_mesh

RATES = {"learning_rate/head/.*": lambda step: 0.1 * step, "learning_rate/.*": lambda step: 1 / 3}


def text(**changes):
    config = tiny_config(**{"model__depth": 1, "ema_decay": 0.9, **changes})
    return rehearse(config, classes=10, devices=jax.devices()[:1]).program.lower().as_text()


def test_seed_rates_steps_and_decay_share_a_program():
    one = text()
    another = {"seed": 4, "steps": 60, "optim__learning_rate": 3e-4, "optim__schedule__name": "rsqrt",
               "optim__schedule__warmup_steps": 7, "optim__weight_decay": 0.2, "ema_decay": '{"name": "cosine", "start": 0.5, "end": 1.0}'}  # fmt: skip
    assert text(**another) == one
    assert text(optim__b1=0.8) != one


def test_what_arrives_is_what_was_computed_rounded_once():
    scalars = scalars_at(7, 2**32 + 5, RATES, lambda step: 0.9999 if step == 8 else None)
    put = put_scalars(scalars, make_mesh({"fsdp": 2}, jax.devices()[:2]))
    assert put.sharding.is_fully_replicated
    got = jax.tree.map(np.asarray, jax.jit(lambda bits: unpacked(bits, scalars))(put))
    assert got["seed"] == 5
    assert got["rates"] == {"learning_rate/head/.*": np.float32(0.7), "learning_rate/.*": np.float32(1 / 3)}
    assert got["ema"] == {"old": np.float32(0.9999), "new": np.float32(1 - 0.9999)}
    assert not {"ema", "fixed"} & set(scalars_at(7, 0, RATES, None))
    fixed = scalars_at(7, 0, RATES | {"weight_decay": Constant(0.3)}, None)
    assert fixed["fixed"] == {"weight_decay": np.float32(0.3)} and set(fixed["rates"]) == set(RATES)


@pytest.mark.parametrize("seed", [0, 3, 2**31 + 1, 2**32 + 5])
def test_keys_of_a_seed_are_those_of_its_bits(seed):
    expected, got = jax.random.key(seed), jax.jit(jax.random.key)(as_uint32(seed))
    np.testing.assert_array_equal(jax.random.key_data(expected), jax.random.key_data(got))
