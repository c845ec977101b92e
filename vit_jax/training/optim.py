"""Optimizers and schedules as the papers use them, built on optax from the `optim` section of a config."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from vit_jax.errors import UserError
from vit_jax.naming import construct, nearest

Schedule = Callable[[Any], Any]


def build(section: Mapping[str, Any], steps: int, params: PyTree) -> tuple[optax.GradientTransformation, Schedule]:
    """The gradient transformation over `params` and the learning rate as a function of the step.

    The section names one optimizer (`name` and its arguments), or `groups`, a list of such sections each with a
    `match`: a regular expression over the whole parameter path ('encoder/.*'); the first match counts.

    Args:
        section: `config.optim` without `frozen`.
        steps: the length over which schedules are laid out.
        params: the trained parameters (arrays or shapes), without frozen leaves.

    Raises:
        UserError: for unknown names and keys, a group that matches nothing, a parameter without a group.
    """
    if "groups" not in section:
        return _optimizer(section, steps, "config.optim")
    if set(section) - {"groups"}:
        stray = sorted(set(section) - {"groups"})[0]
        raise UserError(f"Nobody reads the key 'config.optim.{stray}' beside 'groups'", "Put it into each group")
    groups = [dict(g) for g in section["groups"]]
    patterns = [g.pop("match", None) for g in groups]
    if None in patterns:
        raise UserError("A group in config.optim.groups has no 'match'", "Give it a pattern such as 'encoder/.*'")
    labels = jax.tree.map_with_path(lambda path, _: first_match(patterns, path_name(path)), params)
    used = set(jax.tree.leaves(labels))
    for i, pattern in enumerate(patterns):
        if i not in used:
            raise UserError(f"The pattern {pattern!r} in config.optim.groups matches no parameter", _some_paths(params))
    if -1 in used:
        stray = next(n for n, i in zip(leaf_names(params), jax.tree.leaves(labels), strict=True) if i == -1)
        raise UserError(f"No group of config.optim.groups matches the parameter {stray!r}", "Add a last group '.*'")
    built = [_optimizer(g, steps, f"config.optim.groups[{i}]") for i, g in enumerate(groups)]
    return optax.partition({i: tx for i, (tx, _) in enumerate(built)}, labels), built[0][1]


def adamw(
    *,
    learning_rate: Schedule,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    mu_dtype: str | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) with decay on kernels only.

    The decay is multiplied by the scheduled learning rate: the 'decoupled' wd of the big_vision configs, which is
    not, equals `weight_decay = wd / learning_rate` here.
    """
    return optax.adamw(learning_rate, b1, b2, eps, mu_dtype=mu_dtype, weight_decay=weight_decay, mask=kernels_only)


def sgd(
    *, learning_rate: Schedule, momentum: float = 0.9, accumulator_dtype: str = "float32"
) -> optax.GradientTransformation:
    """SGD with momentum and no decay, the fine-tuning rule of the ViT paper (section B.1.1).

    The original code keeps the momentum in bfloat16: `accumulator_dtype='bfloat16'`.
    """
    return optax.sgd(learning_rate, momentum, accumulator_dtype=jnp.dtype(accumulator_dtype))


OPTIMIZERS = {"adamw": adamw, "sgd": sgd}


def constant(*, peak: float, steps: int, warmup_steps: int = 0) -> Schedule:
    """Linear warmup from 0, then `peak`."""
    del steps
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), lambda _: peak], [warmup_steps])


def cosine(*, peak: float, steps: int, warmup_steps: int = 0, end: float = 0.0) -> Schedule:
    """Linear warmup from 0, then half a cosine from `peak` at `warmup_steps` to `end` at `steps`."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, steps, end)


SCHEDULES = {"constant": constant, "cosine": cosine}


def _optimizer(section: Mapping[str, Any], steps: int, where: str) -> tuple[optax.GradientTransformation, Schedule]:
    values = dict(section)
    name, schedule = values.pop("name", None), dict(values.pop("schedule", {"name": "constant"}))
    clip_norm = values.pop("clip_norm", None)
    if name not in OPTIMIZERS:
        raise UserError(f"There is no optimizer named {name!r}", nearest(name, OPTIMIZERS))
    if "learning_rate" not in values:
        raise UserError(f"The key '{where}.learning_rate' is missing", f"Set it with --{where}.learning_rate=VALUE")
    shape = schedule.pop("name", None)
    if shape not in SCHEDULES:
        raise UserError(f"There is no schedule named {shape!r}", nearest(shape, SCHEDULES))
    if schedule.get("warmup_steps", 0) >= steps:
        raise UserError(
            f"The warmup of {schedule['warmup_steps']} steps is not shorter than the run of {steps}",
            f"Lower {where}.schedule.warmup_steps or raise config.steps",
        )
    rate = construct(SCHEDULES[shape], schedule, f"{where}.schedule", peak=values.pop("learning_rate"), steps=steps)
    tx = construct(OPTIMIZERS[name], values, where, learning_rate=rate)
    return (optax.chain(optax.clip_by_global_norm(clip_norm), tx) if clip_norm else tx), rate


def kernels_only(params: PyTree) -> PyTree:
    """True for matrices and convolution kernels: biases, norms, tokens and position embeddings are not decayed."""
    return jax.tree.map_with_path(lambda path, _: path_name(path).rpartition("/")[2] == "kernel", params)


def path_name(path: tuple) -> str:
    """A tree path as 'encoder/block_00/mlp/fc1/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_names(tree: PyTree) -> list[str]:
    """The names of all leaves, in the tree's order."""
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def first_match(patterns: list[str], name: str) -> int:
    """Index of the first pattern that matches the whole of `name`, -1 without one."""
    return next((i for i, p in enumerate(patterns) if re.fullmatch(p, name)), -1)


def frozen_mask(params: PyTree, patterns: list[str]) -> PyTree:
    """True for leaves that match one of `patterns` ('encoder/.*'); a pattern that matches nothing is an error."""
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in leaf_names(params)):
            raise UserError(f"The pattern {pattern!r} in config.optim.frozen matches no parameter", _some_paths(params))
    return jax.tree.map_with_path(lambda path, _: first_match(patterns, path_name(path)) >= 0, params)


def _some_paths(params: PyTree) -> str:
    names = leaf_names(params)
    return f"Parameters are named like {', '.join(repr(n) for n in names[:: max(1, len(names) // 3)][:4])}"
