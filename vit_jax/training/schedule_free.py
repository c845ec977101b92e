"""Schedule-free training: the parameters are an average, and gradients are taken between it and the newest."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from vit_jax.training.parameters import path_name


class ScheduleFreeState(NamedTuple):
    """What an optimizer keeps beside the average x, which is the parameters themselves.

    Args:
        b1: how near to x the gradient is taken.
        weight_sum: of the averaged steps so far.
        largest_rate: so far.
        inner: of the optimizer that moves z.
        z: the newest parameters, not averaged.
    """

    b1: Float[Array, ""]
    weight_sum: Float[Array, ""]
    largest_rate: Float[Array, ""]
    inner: Any
    z: PyTree


def schedule_free(inner: optax.GradientTransformation, b1: float, rate: str) -> optax.GradientTransformationExtraArgs:
    """Schedule-free learning (Defazio et al., arXiv:2405.15682) around an optimizer without momentum.

    `optax.contrib.schedule_free` computes the same with the other of two sequences as the parameters: there they are
    y, where the gradient is taken, and x must be computed for evaluation. Here they are x, which is what is evaluated,
    saved, averaged again and exported, and the step takes its gradient at `gradient_point`.

    Args:
        inner: moves z; its updates are scaled by the learning rate already.
        b1: y = b1 x + (1 - b1) z.
        rate: the name of the learning rate among those that come with each update. A step counts in the average with
            the square of the largest rate so far, as in the authors' code: those of a warmup count less.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> ScheduleFreeState:
        dtype = optax.tree.dtype(params, "lowest")
        zero = jnp.zeros((), dtype)
        # A copy, since params and z are donated to the step as two buffers.
        return ScheduleFreeState(jnp.asarray(b1, dtype), zero, zero, inner.init(params), jax.tree.map(jnp.copy, params))

    def update(
        updates: PyTree, state: ScheduleFreeState, params: PyTree, *, rates: Mapping[str, Any], **extra: Any
    ) -> tuple[PyTree, ScheduleFreeState]:
        y = jax.tree.map(lambda x, z: _between(x, z, state.b1), params, state.z)
        steps, inner_state = inner.update(updates, state.inner, y, rates=rates, **extra)
        newest = optax.apply_updates(state.z, steps)
        largest = jnp.maximum(state.largest_rate, jnp.asarray(rates[rate], state.largest_rate.dtype))
        weight = jnp.square(largest)
        total = state.weight_sum + weight
        # A warmup begins with a rate of 0, when nothing has moved.
        share = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)
        moved = jax.tree.map(lambda x, z: share.astype(x.dtype) * (z - x), params, newest)
        return moved, ScheduleFreeState(state.b1, total, largest, inner_state, newest)

    return optax.GradientTransformationExtraArgs(init, update)


def gradient_point(params: PyTree, opt_state: PyTree) -> PyTree:
    """Where the gradient of a step is taken: at `params`, and at y of what is trained schedule-free."""
    newest = {path_name(path): (z, state.b1) for state in _states(opt_state)
              for path, z in jax.tree_util.tree_leaves_with_path(state.z)}  # fmt: skip
    if not newest:
        return params

    def point(path: tuple, x: Array) -> Array:
        return _between(x, *newest[name]) if (name := path_name(path)) in newest else x

    return jax.tree.map_with_path(point, params)


def begun_at(params: PyTree, opt_state: PyTree) -> PyTree:
    """The state of a fresh optimizer for other parameters than it was made for, as `init_from` gives them."""
    if not _states(opt_state):
        return opt_state
    values = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def begun(state: Any) -> Any:
        if not isinstance(state, ScheduleFreeState):
            return state
        return state._replace(z=jax.tree.map_with_path(lambda path, _: jnp.copy(values[path_name(path)]), state.z))

    return jax.tree.map(begun, opt_state, is_leaf=_is_state)


def _between(x: Array, z: Array, b1: Float[Array, ""]) -> Array:
    return z + b1.astype(x.dtype) * (x - z)


def _is_state(node: Any) -> bool:
    return isinstance(node, ScheduleFreeState)


def _states(opt_state: PyTree) -> list[ScheduleFreeState]:
    return [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(leaf)]
