"""Optimizers and schedules against the papers' rules, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import UserError
from vit_jax.training import optim, schedules
from vit_jax.training.parameters import leaf_names
from vit_jax.training.turns import Turns, check_turns

PARAMS = {"block": {"fc1": {"kernel": np.full((2, 3), 0.5), "bias": np.ones(3)}}, "pos_embedding": np.ones((2, 2, 4))}
GRADS = [jax.tree.map(lambda x, s=s: np.random.default_rng(s).normal(size=x.shape), PARAMS) for s in range(3)]


def updates(section, steps=10, x64=True):
    with jax.enable_x64(x64):
        params = jax.tree.map(jnp.asarray, PARAMS)
        tx, schedules = optim.build(section, steps, params)
        state, history = tx.init(params), []
        for step, gradient in enumerate(GRADS):
            rates = {name: schedule(step) for name, schedule in schedules.items()}
            change, state = tx.update(jax.tree.map(jnp.asarray, gradient), state, params, rates=rates)
            params = optax.apply_updates(params, change)
            history.append(jax.tree.map(np.asarray, params))
        return history, schedules


def test_adamw_decays_kernels_only():
    got, _ = updates({"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.3, "b1": 0.9, "b2": 0.99, "eps": 1e-8})

    def expected(p, gradients, decay):
        m = v = 0.0
        for t, g in enumerate(gradients, 1):
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
            p = p - 0.1 * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8) + decay * p)
        return p

    fc1, last = PARAMS["block"]["fc1"], got[-1]["block"]["fc1"]
    for name, decay in (("kernel", 0.3), ("bias", 0.0)):
        gradients = [g["block"]["fc1"][name] for g in GRADS]
        np.testing.assert_allclose(last[name], expected(fc1[name], gradients, decay), rtol=1e-9)
    posemb = expected(PARAMS["pos_embedding"], [g["pos_embedding"] for g in GRADS], 0.0)
    np.testing.assert_allclose(got[-1]["pos_embedding"], posemb, rtol=1e-9)


def test_sgd_momentum_with_clipping():
    got, _ = updates({"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "clip_norm": 1.0})
    p, trace = PARAMS["block"]["fc1"]["kernel"], 0.0
    for gradient in GRADS:
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
        trace = 0.9 * trace + gradient["block"]["fc1"]["kernel"] / max(norm, 1.0)
        p = p - 0.1 * trace
    np.testing.assert_allclose(got[-1]["block"]["fc1"]["kernel"], p, rtol=1e-6)


def test_each_number_of_a_gradient_can_be_clipped():
    got, _ = updates({"name": "sgd", "learning_rate": 0.1, "momentum": 0.0, "clip_value": 0.5})
    p = PARAMS["block"]["fc1"]["kernel"] - 0.1 * sum(np.clip(g["block"]["fc1"]["kernel"], -0.5, 0.5) for g in GRADS)
    assert max(abs(g["block"]["fc1"]["kernel"]).max() for g in GRADS) > 0.5
    np.testing.assert_allclose(got[-1]["block"]["fc1"]["kernel"], p, rtol=1e-6)


def test_momentum_can_be_bfloat16():
    tx, _ = optim.build({"name": "sgd", "learning_rate": 0.1, "accumulator_dtype": "bfloat16"}, 10, PARAMS)
    state = tx.init(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), PARAMS))
    assert {x.dtype for x in jax.tree.leaves(state) if x.ndim} == {jnp.dtype("bfloat16")}


def test_a_constant_warmup():
    """CoOp's first epoch has a rate of its own, which the cosine then leaves behind."""
    rate = schedules.build({"name": "cosine", "warmup_steps": 4, "warmup_rate": 1e-5}, 0.002, 12, "schedule")
    np.testing.assert_allclose([rate(s) for s in (0, 3, 4, 8, 12)], [1e-5, 1e-5, 0.002, 0.001, 0], atol=1e-12)


def test_warmup_and_cosine():
    section = {"name": "sgd", "learning_rate": 0.4, "schedule": {"name": "cosine", "warmup_steps": 4}}
    _, schedules = optim.build(section, 20, PARAMS)
    rates = np.array([schedules["learning_rate"](s) for s in range(21)])
    np.testing.assert_allclose(rates[:5], [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(rates[4:], 0.2 * (1 + np.cos(np.pi * np.arange(17) / 16)), atol=1e-7)


def rates(steps, **section):
    _, schedules = optim.build({"name": "sgd", "learning_rate": 0.4, "schedule": section}, steps, PARAMS)
    return np.array([schedules["learning_rate"](s) for s in range(steps + 1)])


def test_linear_ends_where_it_should():
    got = rates(20, name="linear", warmup_steps=4, end=0.01)
    np.testing.assert_allclose(got[:5], [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(got[4:], np.linspace(0.4, 0.01, 17), rtol=1e-5)


def test_rsqrt_with_cooldown():
    got = rates(40, name="rsqrt", warmup_steps=5, timescale=10, cooldown_steps=8)
    t = np.arange(41)
    expected = 0.4 / np.sqrt(1 + np.maximum(t - 5, 0) / 10) * np.minimum(1, t / 5) * np.minimum(1, (40 - t) / 8)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-9)
    assert got[5] == pytest.approx(0.4) and got[40] == 0
    # A longer run is the same until the cooldown.
    np.testing.assert_array_equal(
        rates(80, name="rsqrt", warmup_steps=5, timescale=10, cooldown_steps=8)[:33], got[:33]
    )


def test_constant_with_cooldown():
    got = rates(10, name="constant", warmup_steps=2, cooldown_steps=4)
    np.testing.assert_allclose(got, [0, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0], rtol=1e-6)


def test_a_staircase_falls_at_shares_of_the_run():
    got = rates(10, name="staircase", at=(0.5, 0.8), factor=0.1, warmup_steps=2)
    np.testing.assert_allclose(got, [0, 0.2, *[0.4] * 3, *[0.04] * 3, *[0.004] * 3], rtol=1e-6)
    # SAM's steps are those of its run, whatever shares round to.
    exact = rates(90_000, name="staircase", at=(60_000 / 90_000, 86_666 / 90_000))
    assert [int(np.flatnonzero(exact < 0.4 * share)[0]) for share in (0.5, 0.05)] == [60_000, 86_666]


def test_groups_and_frozen():
    section = {"groups": [{"match": ".*/bias", "name": "sgd", "learning_rate": 1.0, "momentum": 0.0},
                          {"match": ".*", "name": "sgd", "learning_rate": 0.0}]}  # fmt: skip
    got, schedules = updates(section)
    assert {name: schedule(0) for name, schedule in schedules.items()} == {
        "learning_rate/.*/bias": 1.0, "learning_rate/.*": 0.0
    }  # fmt: skip
    bias = PARAMS["block"]["fc1"]["bias"] - sum(g["block"]["fc1"]["bias"] for g in GRADS)
    np.testing.assert_allclose(got[-1]["block"]["fc1"]["bias"], bias)
    np.testing.assert_array_equal(got[-1]["pos_embedding"], PARAMS["pos_embedding"])
    assert optim.frozen_mask(PARAMS, ["block/.*"])["block"]["fc1"] == {"kernel": True, "bias": True}


def in_turns(first, second, **others):
    """Two groups with SGD, of the biases and of the rest."""
    sgd = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, **others}
    return {"groups": [{"match": ".*/bias", **sgd, **first}, {"match": ".*", **sgd, **second}]}


def test_a_group_waits_as_if_there_were_no_step():
    """With Adam, a warmup and a decay that changes: what two updates with their own gradients make."""
    adam = {"name": "adamw", "b1": 0.5, "learning_rate": 0.1, "weight_decay": {"name": "cosine", "start": 0.2, "end": 0.4},
            "schedule": {"name": "linear", "warmup_steps": 2}}  # fmt: skip
    got, _ = updates({"groups": [{"match": ".*/bias", **adam}, {"match": ".*", **adam, "every": 2}]}, steps=10)
    with jax.enable_x64(True):
        alone = jax.tree.map(jnp.asarray, PARAMS)
        tx, rates = optim.build(adam, 5, alone)
        state = tx.init(alone)
        for update, step in enumerate((0, 2)):
            own = {name: rate(update) for name, rate in rates.items()}
            change, state = tx.update(jax.tree.map(jnp.asarray, GRADS[step]), state, alone, rates=own)
            alone = optax.apply_updates(alone, change)
            np.testing.assert_allclose(got[step]["block"]["fc1"]["kernel"], alone["block"]["fc1"]["kernel"], rtol=1e-12)
    np.testing.assert_array_equal(got[0]["block"]["fc1"]["kernel"], got[1]["block"]["fc1"]["kernel"])
    assert (got[0]["block"]["fc1"]["bias"] != got[2]["block"]["fc1"]["bias"]).all()


def test_a_group_that_learns_later_begins_then():
    """Nothing of it moves before, and from then on it is an optimizer of its own: Adam's count, warmup and decay."""
    adam = {"name": "adamw", "b1": 0.5, "learning_rate": 0.1, "weight_decay": 0.2, "schedule": {"name": "linear", "warmup_steps": 2}}  # fmt: skip
    section = {"groups": [{"match": ".*/bias", **adam}, {"match": ".*", **adam, "from_step": 1}]}
    got, rates = updates(section, steps=10)
    with jax.enable_x64(True):
        alone = jax.tree.map(jnp.asarray, PARAMS)
        tx, own = optim.build(adam, 9, alone)
        state = tx.init(alone)
        for step in (1, 2):
            rate = {name: schedule(step - 1) for name, schedule in own.items()}
            change, state = tx.update(jax.tree.map(jnp.asarray, GRADS[step]), state, alone, rates=rate)
            alone = optax.apply_updates(alone, change)
            np.testing.assert_allclose(got[step]["block"]["fc1"]["kernel"], alone["block"]["fc1"]["kernel"], rtol=1e-12)
    np.testing.assert_array_equal(got[0]["block"]["fc1"]["kernel"], PARAMS["block"]["fc1"]["kernel"])
    assert (got[2]["block"]["fc1"]["kernel"] != got[1]["block"]["fc1"]["kernel"]).all()
    np.testing.assert_allclose([rates["learning_rate/.*"](s) for s in (0, 1, 2, 3, 10)], [0, 0, 0.05, 0.1, 0])


def test_turns_that_begin_later():
    turns = Turns(every=3, offset=1, from_step=5)
    learning = [step for step in range(20) if turns.learns(step)]
    assert learning == [7, 10, 13, 16, 19] and turns.first == 7
    assert [turns.counted(step) for step in range(20)] == [sum(t < step for t in learning) for step in range(20)]
    whole = Turns()
    check_turns([Turns(2), Turns(2, 1, from_step=1)], 10)
    for wrong, step in (([Turns(from_step=2)], 0), ([Turns(2), Turns(2, 1, from_step=4)], 1)):
        with pytest.raises(UserError, match=f"learns in step {step}"):
            check_turns(wrong, 10)
    check_turns([whole, Turns(from_step=9)], 10)
    with pytest.raises(UserError, match="first learn in step 10, .* of a run of 10. Lower its from_step"):
        optim.build(in_turns({}, {"from_step": 10}), 10, PARAMS)


def test_a_waiting_groups_schedule_counts_updates_or_steps():
    linear = {"schedule": {"name": "linear", "warmup_steps": 2}}
    for counts, expected in (("updates", [0, 0, 0.5, 0.5, 0.5, 1, 1, 1, 1 / 2]), ("steps", [0, 0.5, 1, 7 / 8, 6 / 8])):
        turns = {"every": 3, "offset": 1, "schedule_counts": counts}
        _, rates = optim.build(in_turns({}, turns, **linear), 10 if counts == "steps" else 12, PARAMS)
        np.testing.assert_allclose([rates["learning_rate/.*"](s) for s in range(len(expected))], expected)
    # Made longer after half of its updates: what is left of the line is stretched over what is left of them.
    _, rates = optim.build(in_turns({}, {"every": 2}, schedule={"name": "linear"}), 20, PARAMS, ((4, 8),))
    np.testing.assert_allclose([rates["learning_rate/.*"](s) for s in (0, 2, 4, 12, 20)], [1, 0.75, 0.5, 0.25, 0])


def test_lin0():
    """The numbers are those of the function in VAR's code, for 101 iterations."""
    rate = schedules.build({"name": "lin0", "warmup_steps": 20, "end": 0.01}, 1.0, 101, "schedule")
    np.testing.assert_allclose([rate(s) for s in (0, 10, 19, 20, 23)], [0.005, 0.5025, 0.95025, 1, 1])
    np.testing.assert_allclose([rate(s) for s in (24, 62, 100)], [1, 0.505, 0.01])


def test_a_weight_decay_that_ends_elsewhere():
    decay = {"name": "cosine", "start": 0.05, "end": 0.08}
    section = {
        "name": "adamw",
        "learning_rate": 0.1,
        "weight_decay": decay,
        "weight_decay_multipliers": [[".*bias", 2.0]],
    }
    _, rates = optim.build(section, 11, PARAMS)
    np.testing.assert_allclose([rates["weight_decay"](s) for s in (0, 5, 10)], [0.05, 0.065, 0.08])
    got, _ = updates(section, 11)
    zero, _ = updates({**section, "weight_decay": 0.0}, 11)
    for step in range(3):
        # Decay is added to Adam's direction, which is the same without it.
        before, before_zero = (got[step - 1], zero[step - 1]) if step else (PARAMS, PARAMS)
        direction = jax.tree.map(lambda a, b: a - b, zero[step], before_zero)
        for name, times in (("kernel", 1.0), ("bias", 2.0)):
            p = before["block"]["fc1"][name]
            expected = p + direction["block"]["fc1"][name] - 0.1 * rates["weight_decay"](step) * times * p
            np.testing.assert_allclose(got[step]["block"]["fc1"][name], expected, rtol=1e-12)
    assert schedules.follows_length(section, None)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "adam", "learning_rate": 1}, "no optimizer named 'adam'. Did you mean 'adamw'"),
        ({"name": "sgd"}, "learning_rate' is missing"),
        ({"name": "sgd", "learning_rate": 1.0, "lerning_rate": 2.0}, "Did you mean 'learning_rate'"),
        ({"name": "sgd", "learning_rate": 1.0, "clip_nrm": 2.0}, "Did you mean 'clip_norm'"),
        ({"name": "sgd", "learning_rate": 1.0, "momentun": 0.1}, "'config.optim.momentun'. Did you mean 'momentum'"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "cosine", "warmup_step": 1}}, "Did you mean 'warmup_steps'"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "cosin"}}, "Did you mean 'cosine'"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "cosine", "warmup_steps": 10}}, "not shorter than"),
        ({"groups": [{"match": "bluck/.*", "name": "sgd", "learning_rate": 1.0}]}, "'bluck/.\\*' .* matches no parameter"),
        ({"groups": [{"match": "block/.*", "name": "sgd", "learning_rate": 1.0}]}, "matches the parameter 'pos_embedding'"),
        ({"groups": [], "name": "sgd"}, "beside 'groups'"),
        ({"groups": [{"match": ".*", "name": "sgd", "learning_rate": 1.0}, {"match": "block/.*", "name": "sgd", "learning_rate": 1.0}]}, "that an earlier one leaves"),
        ({"name": "sgd", "learning_rate": 1.0, "learning_rate_multipliers": [["hed/.*", 2.0]]}, "'hed/.\\*' in config.optim.learning_rate_multipliers matches no parameter"),
        ({"name": "sgd", "learning_rate": 1.0, "learning_rate_multipliers": [["(", 2.0]]}, "is not a pattern"),
        ({"name": "sgd", "learning_rate": 1.0, "learning_rate_multipliers": {"head": 2.0}}, "a list of pairs"),
        ({"name": "adamw", "learning_rate": 1.0, "weight_decay_multipliers": [["hed/.*", 2.0]]}, "weight_decay_multipliers matches no parameter"),
        ({"name": "sgd", "learning_rate": 1.0, "weight_decay_multipliers": [[".*", 2.0]]}, "Unknown key 'config.optim.weight_decay_multipliers'"),
        ({"name": "sgd", "learning_rate": 1.0, "layer_decay": 0.5}, "needs the order of the layers"),
        ({"name": "sgd", "learning_rate": 1.0, "layer_decay": 1.5}, "\\(0, 1\\]"),
        ({"name": "sgd", "learning_rate": 1.0, "accumulator_dtype": "bf16"}, "accumulator_dtype cannot be 'bf16'"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "rsqrt", "warmup_steps": 4, "cooldown_steps": 7}}, "cooldown of 7 steps are longer than the run of 10"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "rsqrt", "timescale": 0}}, "timescale is 0"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "linear", "warmup_steps": 2.5}}, "warmup_steps is 2.5. It must be a whole number"),
        ({"name": "sgd", "learning_rate": -1.0}, "config.optim.learning_rate is -1.0. It must be a number of at least 0"),
        ({"name": "sgd", "learning_rate": None}, "config.optim.learning_rate is None"),
        ({"name": "sgd", "learning_rate": float("nan")}, "config.optim.learning_rate is nan"),
        ({"name": "sgd", "learning_rate": "1e-3x"}, "config.optim.learning_rate is '1e-3x'"),
        ({"name": "sgd", "learning_rate": 1.0, "lr": 2.0}, "'config.optim.lr'. Did you mean 'learning_rate'"),
        ({"name": "sgd", "learning_rate": 1.0, "clip_value": 0.0}, "config.optim.clip_value is 0.0"),
        ({"name": "sgd", "learning_rate": 1.0, "clip_norm": -1.0}, "config.optim.clip_norm is -1.0. It must be a number of at least 0 or none"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": None}, "config.optim.schedule is None. It must be a section"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": "cosine"}, "config.optim.schedule is 'cosine'"),
        ({"name": "sgd", "learning_rate": 1.0, "momentum": 1.0}, "config.optim.momentum is 1.0"),
        ({"name": "adamw", "learning_rate": 1.0, "weight_decay": -0.1}, "config.optim.weight_decay is -0.1"),
        ({"name": "adamw", "learning_rate": 1.0, "b1": 1.5}, "config.optim.b1 is 1.5. It must be a number of at least 0 and below 1"),
        ({"name": "adamw", "learning_rate": 1.0, "eps": 0}, "config.optim.eps is 0. It must be a number above 0"),
        ({"groups": [{"match": ".*", "name": "sgd", "learning_rate": -1.0}]}, "config.optim.groups\\[0\\].learning_rate is -1.0"),
        ({"groups": 3}, "config.optim.groups is 3"),
        ({"groups": [3]}, "config.optim.groups is"),
        ({"groups": [{"match": 3, "name": "sgd", "learning_rate": 1.0}]}, "match is 3"),
        ({"name": "sgd", "learning_rate": 1.0, "every": 2}, "'config.optim.every' is for one of several groups"),
        (in_turns({}, {"every": 0}), "groups\\[1\\].every is 0. It must be a whole number of at least 1"),
        (in_turns({}, {"every": 1.5}), "every is 1.5"),
        (in_turns({}, {"every": 2, "offset": 2}), "groups\\[1\\].offset is 2, and steps divided by every=2 leave at most 1"),
        (in_turns({}, {"offset": 1}), "offset is 1, and steps divided by every=1 leave at most 0"),
        (in_turns({}, {"every": 2, "offset": -1}), "offset is -1"),
        (in_turns({}, {"every": 99, "offset": 10}), "would first learn in step 10, counted from 0, of a run of 10"),
        (in_turns({"every": 2}, {"every": 4, "offset": 1}), "No group of config.optim.groups learns in step 3"),
        (in_turns({}, {"every": 2, "ofset": 1}), "Did you mean 'offset'"),
        (in_turns({}, {"every": 2, "schedule_counts": "update"}), "Did you mean 'updates'"),
        ({"name": "adamw", "learning_rate": 1.0, "weight_decay": {"name": "cosine", "start": 0.1}}, "weight_decay.end is None"),
        ({"name": "adamw", "learning_rate": 1.0, "weight_decay": {"name": "cosine", "start": 0.1, "end": -1.0}}, "weight_decay.end is -1.0"),
        ({"name": "lars", "learning_rate": 1.0, "weight_decay": {"name": "cosine", "start": 0.1, "end": 0.1}}, "weight_decay is"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "lin0", "flat": 1.0}}, "flat is 1.0"),
    ],
)  # fmt: skip
def test_mistakes_get_a_sentence(section, message):
    with pytest.raises(UserError, match=message):
        optim.build(section, 10, PARAMS)


def test_frozen_pattern_that_matches_nothing():
    with pytest.raises(UserError, match="'head/.\\*' in config.optim.frozen matches no parameter"):
        optim.frozen_mask(PARAMS, ["head/.*"])


def test_frozen_is_one_pattern_or_several_but_not_everything():
    assert optim.frozen_mask(PARAMS, "block/.*") == optim.frozen_mask(PARAMS, ["block/.*"])
    with pytest.raises(UserError, match="config.optim.frozen leaves nothing to train"):
        optim.frozen_mask(PARAMS, [".*"])
    with pytest.raises(UserError, match="config.optim.frozen is 3"):
        optim.frozen_mask(PARAMS, 3)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "cosine", "start": 0.99, "ends": 1.0}, "config.ema_decay.ends'. Did you mean 'end'"),
        ({"name": "cosine", "start": 0.99}, "config.ema_decay.end is None"),
        ({"name": "cosine", "start": 0.99, "end": 1.5}, "config.ema_decay.end is 1.5"),
        ({"name": "cosin", "start": 0.99, "end": 1.0}, "Did you mean 'cosine'"),
        ({"name": "ramp", "end": 1.5, "timescale": 10}, "config.ema_decay.end is 1.5"),
        ({"name": "ramp", "end": 0.9, "timescale": 0}, "config.ema_decay.timescale is 0"),
        ({"name": "ramp", "end": 0.9, "timescal": 10}, "Did you mean 'timescale'"),
    ],
)
def test_a_decay_schedule_that_is_none(section, message):
    with pytest.raises(UserError, match=message):
        schedules.ema_decay(section, 10)


def test_decays_of_the_moving_average():
    assert schedules.ema_decay(0.9, 10)(3) == 0.9
    cosine = schedules.ema_decay({"name": "cosine", "start": 0.99, "end": 1.0}, 10)
    np.testing.assert_allclose([cosine(t) for t in (0, 5, 10)], [0.99, 0.995, 1.0], rtol=1e-6)
    ramp = schedules.ema_decay({"name": "ramp", "end": 0.9998, "timescale": 2000}, 10, ((5, 8),))
    np.testing.assert_allclose([ramp(t) for t in (1, 2000, 40_000)], [0.9998 * (1 - np.exp(-t / 2000))
                                                                       for t in (1, 2000, 40_000)], rtol=1e-12)  # fmt: skip
    assert not schedules.follows_length(
        {"schedule": {"name": "constant"}}, {"name": "ramp", "end": 0.9, "timescale": 9}
    )


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "adamw", "clip_norm": 1.0}, "1/0/count 1/0/mu/head 1/0/nu/head 1/2/count"),
        ({"name": "sgd"}, "0/trace/head 1/count"),
        ({"name": "lars"}, "2/count 3/trace/head"),
        ({"name": "adafactor"}, "0/count 0/v_row/head 0/v_col/head 0/v/head 1/count 1/ema/head 3/count"),
        ({"groups": [{"match": ".*", "name": "sgd", "learning_rate": 1.0}]},
         "inner_states/0/inner_state/0/trace/head inner_states/0/inner_state/1/count"),
        ({"name": "adamw", "weight_decay": {"name": "cosine", "start": 0.1, "end": 0.2}}, "0/count 0/mu/head 0/nu/head 2/count"),
    ],
)  # fmt: skip
def test_slots_have_the_names_that_are_in_checkpoints(section, expected):
    """Those of the first version, or the runs that it began cannot go on."""
    params = {"head": np.ones((2, 3), np.float32)}
    tx, _ = optim.build(section if "groups" in section else {"learning_rate": 1.0, **section}, 10, params)
    assert leaf_names(tx.init(params)) == expected.split()
