"""Optimizers as the papers use them, built on optax from the `optim` section of a config."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, PyTree

from vit_jax.errors import UserError
from vit_jax.naming import construct, nearest
from vit_jax.nn.trunk import Layers
from vit_jax.ranges import NonNegative, Positive, check_arguments, check_value
from vit_jax.training import schedules
from vit_jax.training.optimizers import AVERAGING, DECAYED, OPTIMIZERS, RATE
from vit_jax.training.parameters import (
    DECAY_RATE,
    by_name,
    check_patterns,
    first_match,
    layerwise,
    leaf_names,
    path_name,
    scaled,
)
from vit_jax.training.schedules import Constant, Extensions, Schedule
from vit_jax.training.turns import TURNS, check_turns, turns_of


def build(
    section: Mapping[str, Any], steps: int, params: PyTree, extensions: Extensions = (), layers: Layers = ()
) -> tuple[optax.GradientTransformationExtraArgs, dict[str, Schedule]]:
    """The gradient transformation over `params` and the learning rates as functions of the step.

    The rates are not in the transformation: `update` takes them by name, `rates={"learning_rate": 1e-3}`.

    The section names one optimizer: `name` and its arguments, `learning_rate`, `schedule` (a section of its own, see
    `vit_jax.training.schedules`), `clip_norm` (of all gradients together), `clip_value` (of each number of them, either
    way), `learning_rate_multipliers` (a list of (pattern, factor), first match counts, 1 without one), `layer_decay`
    (see `parameters.layerwise`). Multipliers scale the whole update, decay included, as parameter groups in PyTorch do.

    Or it has `groups`, a list of such sections each with a `match`: a regular expression over the whole parameter path
    ('encoder/.*'); the first match counts. Of several groups the rates are named 'learning_rate/<match>'.

    A group with `every` and `offset`, or with `from_step`, learns in some steps only, see `vit_jax.training.turns`:
    several steps of a discriminator for each of its generator, or layers that are unfrozen later. In the others its
    parameters, moments and counts stay what they are, and its schedules too: these are laid out over the group's own
    updates, and what they count is updates (`schedule_counts='steps'` lays them out over the run instead).

    A `weight_decay` may be a section too, see `schedules.weight_decay`; its value is then one of the rates. So is a
    number, as a `Constant`.

    Args:
        section: `config.optim` without `frozen`.
        steps: the length over which schedules are laid out.
        params: the trained parameters (arrays or shapes), without frozen leaves.
        extensions: how the run came to this length, see `schedules.laid_out`.
        layers: of the model, for `layer_decay`.

    Raises:
        UserError: for unknown names and keys, a pattern that matches nothing, a parameter without a group, a schedule
            longer than the run.
    """
    names = leaf_names(params)
    if "groups" not in section:
        if stray := [key for key in TURNS if key in section]:
            raise UserError(
                f"'config.optim.{stray[0]}' is for one of several groups, which waits while others learn",
                "Put it into a group of config.optim.groups, or remove it",
            )
        return _optimizer(section, steps, names, "config.optim", extensions, layers)
    if set(section) - {"groups"}:
        stray = sorted(set(section) - {"groups"})[0]
        raise UserError(f"Unknown key 'config.optim.{stray}' beside 'groups'", "Put it into each group")
    check_value(section["groups"], Sequence[Mapping], "config.optim.groups")
    groups = [dict(g) for g in section["groups"]]
    patterns = [g.pop("match", None) for g in groups]
    for i, pattern in enumerate(patterns):
        check_value(pattern, str | None, f"config.optim.groups[{i}].match")
    if None in patterns:
        raise UserError("A group in config.optim.groups has no 'match'", "Give it a pattern such as 'encoder/.*'")
    check_patterns(patterns, names, "config.optim.groups")
    found = {name: first_match(patterns, name) for name in names}
    for name, i in found.items():
        if i == -1:
            raise UserError(f"No group of config.optim.groups matches the parameter {name!r}", "Add a last group '.*'")
    built, rates, turns = {}, {}, []
    for i, group in enumerate(groups):
        own = [name for name in names if found[name] == i]
        if not own:
            raise UserError(
                f"The pattern {patterns[i]!r} in config.optim.groups matches no parameter that an earlier one leaves",
                "Put the narrower pattern first",
            )
        where, suffix = f"config.optim.groups[{i}]", "" if len(groups) == 1 else f"/{patterns[i]}"
        turn, group = turns_of(group, steps, where)
        tx, own_rates = _optimizer(group, turn.counted(steps), own, where, turn.extensions(extensions), layers, suffix)
        built[i] = turn.taken_by(tx)
        rates |= {name: rate if isinstance(rate, Constant) else turn.schedule(rate) for name, rate in own_rates.items()}
        turns.append(turn)
    check_turns(turns, steps)
    labels = jax.tree.map_with_path(lambda path, _: found[path_name(path)], params)
    return optax.partition(built, labels), rates


def frozen_mask(params: PyTree, patterns: Sequence[str], subtrees: Sequence[str] = ()) -> PyTree:
    """True for leaves that match one of `patterns` ('encoder/.*'), where one that matches nothing is an error, and for
    those of `subtrees`."""
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    check_value(patterns, Sequence[str], "config.optim.frozen")
    check_patterns(patterns, leaf_names(params), "config.optim.frozen")
    patterns = (*patterns, *(f"{re.escape(name)}/.*" for name in subtrees))
    mask = jax.tree.map_with_path(lambda path, _: first_match(patterns, path_name(path)) >= 0, params)
    if patterns and all(jax.tree.leaves(mask)):
        raise UserError("config.optim.frozen leaves nothing to train", "Freeze less, for example 'encoder/.*'")
    return mask


def check_locked(
    frozen: PyTree, subtrees: Sequence[str], sources: str | Mapping[str, str] | None, by: str = "config.optim.frozen"
) -> None:
    """Refuses a run that would freeze one of `subtrees` as a whole at the random values that it starts with.

    Args:
        frozen: see `frozen_mask`.
        sources: `config.init_from`.
        by: what locks them, for the error.
    """
    whole = "" in sources if isinstance(sources, Mapping) else bool(sources)
    loaded = subtrees if whole else sources or ()
    for name in subtrees:
        if name not in loaded and all(jax.tree.leaves(frozen.get(name, False))):
            raise UserError(
                f"{by} locks '{name}', and no weights are given for it: the rest would learn from noise",
                f"Set config.init_from.{name} to a checkpoint or a published file, or train it too",
            )


def _scaled_by_rate() -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus the learning rate, which comes with each update: `update(..., rates={"learning_rate": x})`.

    Its state is that of `optax.scale_by_learning_rate` over a schedule: nobody needs the count, but it is on
    disk.
    """

    def update(
        updates: PyTree, state: optax.ScaleByScheduleState, params: PyTree | None = None, *,
        rates: Mapping[str, Float[jax.Array, ""] | float], **_: Any,
    ) -> tuple[PyTree, optax.ScaleByScheduleState]:  # fmt: skip
        del params
        updates = jax.tree.map(lambda u: jnp.asarray(-rates[RATE], u.dtype) * u, updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
    )


def _with_own_rates(tx: optax.GradientTransformationExtraArgs, suffix: str) -> optax.GradientTransformationExtraArgs:
    """`tx` that gets those of all rates whose names have the suffix, without it."""
    tx = optax.with_extra_args_support(tx)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, *, rates: Mapping[str, Any], **extra: Any
    ) -> tuple[PyTree, Any]:
        own = {name: rates[name + suffix] for name in (RATE, DECAY_RATE) if name + suffix in rates}
        return tx.update(updates, state, params, rates=own, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _common(
    learning_rate: NonNegative,
    schedule: Mapping[str, Any],
    clip_norm: NonNegative | None,  # 0 is none, as it always was
    clip_value: Positive | None,
    layer_decay: Positive | None,
    learning_rate_multipliers: Sequence[tuple[str, NonNegative]],
) -> None:
    """What the sections of all optimizers may hold beside the optimizer's own arguments."""


def _optimizer(
    section: Mapping[str, Any],
    steps: int,
    names: Sequence[str],
    where: str,
    extensions: Extensions,
    layers: Layers,
    suffix: str = "",
) -> tuple[optax.GradientTransformationExtraArgs, dict[str, Schedule]]:
    """One group's transformation, and its rates by names with the suffix."""
    check_arguments(_common, section, where)
    values = dict(section)
    # `construct` sees what is left after these; a misspelt one of them is to be recognised all the same.
    own = ("name", *inspect.signature(_common).parameters, *TURNS)
    name, schedule = values.pop("name", None), values.pop("schedule", {"name": "constant"})
    clip_norm, layer_decay = values.pop("clip_norm", None), values.pop("layer_decay", None)
    clip_value, multipliers = values.pop("clip_value", None), values.pop("learning_rate_multipliers", ())
    if name not in OPTIMIZERS:
        raise UserError(f"There is no optimizer named {name!r}", nearest(name, OPTIMIZERS))
    if "learning_rate" not in values:
        raise UserError(f"The key '{where}.learning_rate' is missing", f"Set it with --{where}.learning_rate=VALUE")
    schedule = schedules.build(schedule, values.pop("learning_rate"), steps, f"{where}.schedule", extensions)
    rates = {RATE + suffix: schedule}
    if isinstance(decay := values.get("weight_decay"), Mapping):
        check_arguments(OPTIMIZERS[name], values, where)
        rates[DECAY_RATE + suffix] = schedules.weight_decay(decay, steps, extensions, f"{where}.weight_decay")
    elif name in DECAYED and decay and not values.get("weight_decay_multipliers"):
        # With multipliers it would be rounded before it is multiplied, and a run would not be what it was.
        check_arguments(OPTIMIZERS[name], values, where)
        rates[DECAY_RATE + suffix] = Constant(decay)
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if clip_value is not None:
        parts.append(optax.clip(clip_value))
    factors = [scaled(by_name(multipliers, names, f"{where}.learning_rate_multipliers"))] if multipliers else []
    if layer_decay is not None:
        factors.append(scaled(layerwise(layer_decay, layers, names, f"{where}.layer_decay")))
    rate = _scaled_by_rate()
    if name in AVERAGING:
        rate, factors = optax.chain(rate, *factors), []
    parts += [construct(OPTIMIZERS[name], values, where, own, learning_rate=rate, names=names), *factors]
    tx = optax.chain(*parts) if len(parts) > 1 else parts[0]
    return _with_own_rates(tx, suffix) if suffix else tx, rates
