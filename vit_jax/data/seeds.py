"""Seeds for one purpose each, made from the seed of a run."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from vit_jax.errors import UserError

_T = TypeVar("_T")


def derived_seed(seed: int, *purpose: int) -> int:
    """A seed of its own for every purpose, named by numbers.

    Raises:
        UserError: for a seed that is not a whole number of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UserError(f"seed={seed!r} is out of range", "Give a whole number from 0 up")
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0])


def one_of(choices: Sequence[_T], seed: int, *purpose: int) -> _T:
    """One of `choices`, with equal odds, for a purpose named by numbers.

    It is the same with every NumPy: SeedSequence promises its numbers, and what Generator makes of them may change from
    version to version (NEP 19).
    """
    return choices[derived_seed(seed, *purpose) * len(choices) >> 32]
