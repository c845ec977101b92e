"""Seeds for one purpose each, made from the seed of a run."""

import numpy as np

from vit_jax.errors import UserError


def derived_seed(seed: int, *purpose: int) -> int:
    """A seed of its own for every purpose, named by numbers.

    Raises:
        UserError: for a seed that is not a whole number of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UserError(f"seed={seed!r} is out of range", "Give a whole number from 0 up")
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0])
