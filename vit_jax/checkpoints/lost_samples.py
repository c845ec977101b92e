"""Samples that stopped being numbers: which, and where on the way."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from vit_jax.errors import UserError
from vit_jax.nn.reverse_process import Diffuses
from vit_jax.tasks import Task, Variables, example_keys


def check_finite(
    task: Task,
    variables: Variables,
    settings: object,
    drawn: Shaped[np.ndarray, "B ..."],
    conditions: dict[str, Array],
    numbers: Shaped[np.ndarray, " B"],
    seed: int,
) -> None:
    """Refuses NaN and infinity in what a task has drawn.

    Args:
        conditions: as the task was given them.
        numbers: of the samples.

    Raises:
        UserError: it names the sample, and of a diffusion the step.
    """
    if not np.issubdtype(drawn.dtype, np.floating):
        return
    lost = ~np.isfinite(drawn).all(axis=tuple(range(1, drawn.ndim)))
    if not lost.any():
        return
    row = int(lost.argmax())
    where = "is not made of numbers"
    if isinstance(task, Diffuses):
        one = {name: values[row : row + 1] for name, values in conditions.items()}
        finite = _finite_steps(task, variables, settings, one, numbers[row : row + 1], seed)
        if not finite.all():
            where = f"stopped being numbers at step {int(finite.argmin()) + 1} of {len(finite)}"
    raise UserError(
        f"Sample {numbers[row]} {where}", "Use float32 and less guidance, or a checkpoint from before its run diverged"
    )


def _finite_steps(
    task: Diffuses, variables: Variables, settings: object, conditions: dict[str, Array], number: Array, seed: int
) -> Shaped[np.ndarray, " S"]:
    """Whether x is made of numbers after each step, of one sample."""

    @jax.jit
    def steps(variables: Variables, conditions: dict[str, Array], number: Array) -> Array:
        way = task.reverse_process(variables, conditions, settings).trail(example_keys(seed, {"index": number}))
        return jnp.isfinite(jnp.concatenate([way.xt[1:], way.end[None]])).all(axis=tuple(range(1, way.xt.ndim)))

    return np.asarray(steps(variables, conditions, number))
