"""The mean of a run's last checkpoints, as "Attention is all you need" (section 6.1) evaluates it."""

from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from vit_jax.checkpoints import store
from vit_jax.checkpoints.steps import find, is_step, steps_in
from vit_jax.errors import UserError
from vit_jax.nn.constants import changing, constants_of


def last_steps(path: epath.PathLike, count: int) -> list[epath.Path]:
    """The step directories of a workdir's last `count` checkpoints, oldest first.

    Raises:
        UserError: for a count below 2, a path that is one step, or fewer checkpoints.
    """
    if count < 2:
        raise UserError(f"A mean of {count} checkpoints is none", "Average at least 2, or leave it out")
    if is_step(path):
        raise UserError(f"{path} is a single checkpoint", "Give the workdir, of which the last ones are averaged")
    newest = find(path)
    found = [newest.parent / str(step) for step in steps_in(newest.parent.parent)][-count:]
    if len(found) < count:
        raise UserError(
            f"{path} has {len(found)} checkpoint{'s' if len(found) > 1 else ''}, and {count} are to be averaged",
            f"Average fewer, or train with --config.checkpoint.every and --config.checkpoint.keep={count}",
        )
    return found


def read_averaged(
    steps: list[epath.Path], product: str, checksums: bool, whole: Callable[[dict], dict]
) -> tuple[dict, dict]:
    """Parameters, each the mean of those of all steps, taken in float64, and the constants, which all of them share.

    Args:
        product: see `vit_jax.checkpoints.store.read_params`, like `checksums`.
        whole: what a model is applied to, from what a step has of it. The mean is taken of that: a product of two
            matrices that are means is not the mean of the products.

    Raises:
        UserError: for a model with statistics of batches, which those of averaged parameters are not the average of.
    """
    total, constants = None, {}
    for step in steps:
        params, model_state = store.read_params(step, product, checksums)
        if jax.tree.leaves(changing(model_state)):
            raise UserError(
                f"The model in {step} keeps statistics of its batches, which cannot be averaged with its parameters",
                "Load one checkpoint, or train with config.ema_decay",
            )
        constants = constants_of(model_state)
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), whole(params))
        total = params if total is None else jax.tree.map(np.add, total, params)
    return jax.tree.map(lambda leaf: jax.numpy.asarray((leaf / len(steps)).astype(np.float32)), total), constants
