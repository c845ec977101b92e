"""Samples of a task that generates, for prompts that people give."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.checkpoints.sampling import draw, settings_of
from vit_jax.errors import UserError
from vit_jax.tasks import Answer, Task, Variables


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
    chosen = settings_of(task, settings, "one that does, such as 'language_model'")
    if not prompts:
        raise UserError("There is no prompt", "Give at least one")
    if samples < 1:
        raise UserError(f"samples is {samples}", "Ask for at least 1")
    conditions = task.conditions(prompts, chosen)
    # Rows are samples, prompt by prompt.
    prompt, number = np.divmod(np.arange(len(prompts) * samples), samples)
    drawn = draw(
        task, variables, chosen, lambda at: {name: x[prompt[at]] for name, x in conditions.items()},
        number, seed, batch_size,
    )  # fmt: skip
    answers = [answer for part, asked in drawn for answer in task.shown(part, asked)]
    return [answers[i : i + samples] for i in range(0, len(answers), samples)]
