"""The numbers that a step takes as arguments, so that runs which differ only in them share one compiled program."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, UInt32

from vit_jax.training.schedules import Constant, Schedule
from vit_jax.training.sharding import place, replicated

# {"seed": uint32, "rates": {"learning_rate": float32}} and, where there is a moving average, "ema": the weights of its
# "old" value and of the "new" one. Of several groups of parameters the rates are "learning_rate/<the group's pattern>".
# A weight decay that has a schedule is one of the rates; "fixed" has those that are numbers, which no log repeats.
Scalars = dict[str, Any]


def scalars_at(step: int, seed: int, rates: Mapping[str, Schedule], ema_decay: Schedule | None) -> Scalars:
    """What the update after `step` of them takes, computed on the host in float64 and rounded to float32 once."""
    values = {name: np.float32(rate(step)) for name, rate in rates.items()}
    fixed = {name for name, rate in rates.items() if isinstance(rate, Constant)}
    scalars = {"seed": as_uint32(seed), "rates": {name: value for name, value in values.items() if name not in fixed}}
    if fixed:
        scalars["fixed"] = {name: values[name] for name in fixed}
    if ema_decay is not None:
        decay = ema_decay(step + 1)
        # Both, since 1 - float32(0.9999) is 0.02 % off.
        scalars["ema"] = {"old": np.float32(decay), "new": np.float32(1 - decay)}
    return scalars


def as_uint32(seed: int) -> np.uint32:
    """The 32 bits of a seed that `jax.random.key` uses."""
    return np.uint32(seed % 2**32)


def put_scalars(scalars: Scalars, mesh: Mesh) -> UInt32[Array, " n"]:
    """The bits of all of them in one array on the mesh, which is one transfer a step."""
    return place(np.array([leaf.view(np.uint32) for leaf in jax.tree.leaves(scalars)]), replicated(mesh))


def unpacked(bits: UInt32[Array, " n"], like: Scalars) -> Scalars:
    """The inverse of `put_scalars`, traceable; `like` has the names and types."""
    leaves, structure = jax.tree.flatten(like)
    values = [jax.lax.bitcast_convert_type(bits[i], leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, values)
