"""Samples of a task that generates, for prompts that people give."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.tasks import Answer, Task, Variables, example_keys


def generate(
    task: Task,
    variables: Variables,
    prompts: Sequence[str],
    settings: Mapping[str, Any],
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 32,
) -> list[list[Answer]]:
    """`samples` answers to each prompt.

    Sample i of a prompt is a function of the parameters, the prompt, the settings, the seed and i, whatever stands
    beside it: more samples, other prompts, another batch size.

    Args:
        settings: arguments of the task's `sampling`; the others have its defaults.
        batch_size: samples drawn at a time; the last batch is filled up, so that all are one program.

    Raises:
        UserError: when the task generates nothing, or not that.
    """
    if task.sampling is None:
        raise UserError(
            f"The task '{_name(task)}' generates nothing", "Use a checkpoint of one that does, such as 'language_model'"
        )
    if not prompts:
        raise UserError("There is no prompt", "Give at least one")
    for what, number in (("samples", samples), ("batch_size", batch_size)):
        if number < 1:
            raise UserError(f"{what} is {number}", "Ask for at least 1")
    settings = construct(task.sampling, settings, "sampling")
    conditions = task.conditions(prompts, settings)
    draw = _drawing(task, settings)
    # Rows are samples, prompt by prompt.
    prompt, sample = np.divmod(np.arange(len(prompts) * samples), samples)
    batch_size, answers = min(batch_size, len(prompt)), []
    for start in range(0, len(prompt), batch_size):
        rows = np.arange(start, start + batch_size).clip(max=len(prompt) - 1)
        batch = {name: values[prompt[rows]] for name, values in conditions.items()}
        keys = example_keys(seed, {"index": sample[rows].astype(np.int32)})
        drawn = np.asarray(draw(variables, {name: jnp.asarray(values) for name, values in batch.items()}, keys))
        answers += task.shown(drawn, batch)[: len(prompt) - start]
    return [answers[i : i + samples] for i in range(0, len(answers), samples)]


@functools.lru_cache(maxsize=8)
def _drawing(task: Task, settings: Any) -> Callable[..., Array]:
    """`task.sample`, compiled once however often it is asked."""
    return jax.jit(lambda variables, conditions, keys: task.sample(variables, conditions, keys, settings))


def _name(task: Task) -> str:
    return type(task).__module__.rpartition(".")[2]
