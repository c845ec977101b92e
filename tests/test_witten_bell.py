"""benchmarks/witten_bell.py against counting by hand."""

import math
from collections import Counter

import numpy as np
import pytest

from benchmarks.witten_bell import bits_per_byte


def by_hand(train, test, orders):
    """Straight from the formula."""

    def probability(context, byte):
        if context is None:
            return 1 / 256
        lower = probability(context[1:] if context else None, byte)
        after = Counter(train[i + len(context)] for i in range(len(train) - len(context))
                        if train[i : i + len(context)] == context)  # fmt: skip
        total, kinds = sum(after.values()), len(after)
        return (after[byte] + kinds * lower) / (total + kinds) if total else lower

    return [
        -np.mean([math.log2(probability(test[max(0, i - order + 1) : i], byte)) for i, byte in enumerate(test)])
        for order in range(1, orders + 1)
    ]


def test_it_is_the_formula():
    train, test = b"abracadabra, abra; cadabra! abracadabra?", b"cadabra, abrac xyz abra"
    np.testing.assert_allclose(bits_per_byte(train, test, 4), by_hand(train, test, 4), rtol=1e-12)


def test_what_does_not_fit_an_integer():
    with pytest.raises(ValueError, match="up to 8"):
        bits_per_byte(b"a", b"a", 9)
