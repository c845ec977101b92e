"""The training state: plain nested dicts, and every random key folded from (seed, step, purpose)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt32

from vit_jax.checkpoints.subtrees import merge, split
from vit_jax.nn.constants import changing
from vit_jax.tasks import Variables
from vit_jax.training.parameters import first_match, path_name

# {"step", "params", "model_state", "opt_state"} and "ema" where there is one, with "ema_model_state" where the model
# has a state. Frozen parameters are in `params` like all others, but have no slot in `opt_state` and no copy in `ema`;
# other parameters have one if `config.ema` matches them.
State = dict[str, Any]

# The purposes of random keys. No key is stored, so a resumed run draws what the uninterrupted one would have drawn.
INIT, ON_DEVICE, LOSS = range(3)


def random_key(seed: int | UInt32[Array, ""], step: int | Int[Array, ""], purpose: int) -> PRNGKeyArray:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), purpose)


def init_state(
    variables: Variables, tx: optax.GradientTransformation, frozen: PyTree, averaged: Sequence[str] | None
) -> State:
    """A fresh state of what a task initialised; traceable, so that jit places it without holding it in one piece."""
    trained, _ = split(variables["params"], frozen)
    state = {"step": jnp.int32(0), **variables, "opt_state": tx.init(trained)}
    if averaged is not None:
        state |= fresh_average(state, frozen, averaged)
    return state


def fresh_average(state: State, frozen: PyTree, patterns: Sequence[str]) -> State:
    """The keys of the moving average as it starts: copies of what it is the average of.

    Copies, since params and ema are donated to the step as two buffers.

    Args:
        patterns: a parameter whose path one of them matches has an average, and running statistics by their path
            without the collection's name.
    """
    trained, _ = split(state["params"], frozen)
    averaged, _ = split(trained, jax.tree.map_with_path(lambda p, _: first_match(patterns, path_name(p)) < 0, trained))
    average = {"ema": jax.tree.map(jnp.copy, averaged)}
    statistics = changing(state["model_state"])
    others = jax.tree.map_with_path(lambda p, _: first_match(patterns, path_name(p[1:])) < 0, statistics)
    statistics, _ = split(statistics, others)
    if jax.tree.leaves(statistics):
        average["ema_model_state"] = jax.tree.map(jnp.copy, statistics)
    return average


def averaged(average: dict, new: dict, weights: Mapping[str, Float[Array, ""]]) -> dict:
    """The moving average after an update; what is not a float (a counter) is the new value itself.

    Args:
        average: of all that `new` has, or of a part.
        weights: of the "old" average and of the "new" value, which add up to 1.
    """

    def update(old: Array, value: Array) -> Array:
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            return value
        return (old * weights["old"] + value * weights["new"]).astype(value.dtype)

    return {
        key: averaged(old, new[key], weights) if isinstance(old, dict) else update(old, new[key])
        for key, old in average.items()
    }


def variables_of(state: State, product: str = "params") -> Variables:
    """What `task.outputs` gets for evaluation: `product` says whether `params` or the `ema` stands under params.

    What has no average is in both. Averaged parameters go with averaged running statistics: those of the newest ones
    are not theirs.
    """
    if product != "ema":
        return {"params": state["params"], "model_state": state["model_state"]}
    return {
        "params": merge(state["params"], state["ema"]),
        "model_state": merge(state["model_state"], state.get("ema_model_state", {})),
    }
