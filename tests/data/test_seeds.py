"""Seeds of one purpose, and what is drawn by them: the same with every NumPy."""

import itertools
from collections import Counter

import pytest

from vit_jax.data.seeds import one_of, some_of
from vit_jax.errors import UserError

WRITTEN = [3, 5, 2, 4]  # so that they stay what they are with another NumPy


def test_some_of_many_are_different_and_written_down():
    assert some_of(10, 4, 0, 7) == WRITTEN and some_of(10, 10, 0, 7)[:1] == WRITTEN[:1]
    assert sorted(some_of(6, 6, 3)) == list(range(6)) and some_of(5, 0, 1) == []
    assert len(set(some_of(10**9, 1000, 1))) == 1000
    with pytest.raises(UserError, match="4 different ones do not come out of 3"):
        some_of(3, 4, 0)


def test_all_orders_come_equally_often():
    found = Counter(tuple(some_of(4, 3, 0, i)) for i in range(4800))
    assert found.keys() == set(itertools.permutations(range(4), 3))
    # 24 orders of 200 each: a chi-squared of 23 degrees is below 50 in all but one case of a thousand.
    assert sum((n - 200) ** 2 / 200 for n in found.values()) < 50
    assert {one_of("abc", 0, i) for i in range(30)} == set("abc")
