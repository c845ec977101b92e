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
    return _words(1, seed, purpose)[0]


def one_of(choices: Sequence[_T], seed: int, *purpose: int) -> _T:
    """One of `choices`, with equal odds, for a purpose named by numbers.

    It is the same with every NumPy: SeedSequence promises its numbers, and what Generator makes of them may change from
    version to version (NEP 19).
    """
    return choices[derived_seed(seed, *purpose) * len(choices) >> 32]


def some_of(count: int, size: int, seed: int, *purpose: int) -> list[int]:
    """`size` different ones of the numbers 0..count - 1 in an order by chance, like `one_of` the same with every NumPy.

    It is the beginning of a shuffle by Fisher and Yates, which takes no longer for many numbers than for few.

    Raises:
        UserError: for more than there are.
    """
    if size > count:
        raise UserError(f"{size} different ones do not come out of {count}", "Ask for fewer")
    drawn, moved = [], dict[int, int]()
    for place, word in enumerate(_words(size, seed, purpose)):
        other = place + (word * (count - place) >> 32)
        drawn.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return drawn


def _words(count: int, seed: int, purpose: Sequence[int]) -> list[int]:
    """Whole numbers below 2^32."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UserError(f"seed={seed!r} is out of range", "Give a whole number from 0 up")
    return np.random.SeedSequence([seed, *purpose]).generate_state(count).tolist()
