"""What a step need not compute because parameters are frozen, counted in the program itself.

A frozen matrix needs no gradient of its own, and what lies before all that learns needs none at all: a step with
adapters in every block costs two thirds of a whole one, one with a frozen trunk little more than one pass forward.
"""

import statistics
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from vit_jax.checkpoints.subtrees import merge, split
from vit_jax.data.batch import NotedBatch
from vit_jax.nn.flops import products_of
from vit_jax.tasks import Task, Variables, static_argument

_STEPS = 100  # in which a step of each kind comes up


def spared_flops(task: Task, variables: Variables, frozen: PyTree, batch: Mapping[str, Any]) -> float:
    """By how much `task.flops` of one example is too many where parameters are frozen.

    It is the products of the loss and its gradient in a step in which all learns, without those of this one, so that
    what neither or both compute (a fused kernel, a block computed again on the way back) makes no difference. Of a task
    whose steps differ (`Task.static`) it is the mean over their kinds. Nothing is traced where nothing is frozen but
    what the task takes for frozen anyway.

    Args:
        variables: shapes of what the loss gets: what `task.init` makes, with averages where there are some.
        frozen: mask over the parameters.
        batch: shapes of what the loss gets.
    """
    whole = {
        name: mask if name in task.flops_without else jax.tree.map(lambda _: False, mask)
        for name, mask in frozen.items()
    }
    if whole == frozen:
        return 0.0
    kinds = {static_argument(task, step) for step in range(_STEPS)}
    counts = []
    for gradient in (_gradient(task, kind) for kind in kinds):
        all_of_it, done = (products_of(gradient, *_arguments(variables, mask, batch)) for mask in (whole, frozen))
        counts.append(max(all_of_it - done, 0.0))
    return statistics.mean(counts) / jax.tree.leaves(batch)[0].shape[0]


def _arguments(variables: Variables, mask: PyTree, batch: Mapping[str, Any]) -> tuple[Any, ...]:
    trained, fixed = split(variables["params"], mask)
    return trained, fixed, {name: tree for name, tree in variables.items() if name != "params"}, batch


def _gradient(task: Task, kind: Hashable) -> Callable[..., Any]:
    extra = {} if task.static is None else {"static": kind}

    def loss(trained: PyTree, fixed: PyTree, others: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[Any, Any]:
        variables = {**others, "params": merge(trained, fixed)}
        return task.loss(variables, NotedBatch(batch), jax.random.key(0), jnp.int32(0), **extra)

    return jax.value_and_grad(loss, has_aux=True)
