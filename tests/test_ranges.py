"""What annotations allow, and how they are said."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.ranges import Count, Decay, Natural, NonNegative, Positive, Share, allowed, check_arguments, described


@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        (Count, [1, np.int64(7)], [0, -1, 1.0, True, "1", None, [1]]),
        (Natural | None, [0, None], [-1, 0.5]),
        (Positive, [1, 0.5, np.float32(2)], [0, -1.0, float("nan"), float("inf"), "0.5", False]),
        (NonNegative, [0, 0.0], [-1e-9]),
        (Share, [0, 1, 0.5], [1.01]),
        (Decay, [0, 0.999], [1, 1.0]),
        (bool, [True, False], [0, 1, "true"]),
        (str | int, ["18", 18], [1.5, True]),
        (Literal["tanh", "exact"], ["tanh"], ["gelu", 3]),
        (Sequence[Count], [(1, 5), [2], []], ["12", 3, (0,), {1: 2}]),
        (Sequence[tuple[str, NonNegative]], [[["a", 1.0]]], [["a"], [["a", -1.0]], [["a", 1, 2]], {"a": 1}]),
        (tuple[float, float], [(0.1, 1)], [(0.1,), 3.0]),
        (Mapping[str, Any] | None, [{}, None], [3, "x", []]),
        (Sequence[str] | str, ["a", ["b"]], [[1]]),
        (Any, [None, 3, object()], []),
    ],
)
def test_what_annotations_allow(annotation, right, wrong):
    assert [value for value in right if not allowed(value, annotation)] == []
    assert [value for value in wrong if allowed(value, annotation)] == []


def test_how_annotations_are_said():
    assert described(Count | None) == "a whole number of at least 1 or none"
    assert described(Decay) == "a number of at least 0 and below 1"
    assert described(Sequence[tuple[str, NonNegative]]) == "a list of pairs (a text, a number of at least 0)"


def test_the_key_is_named():
    def f(size: Count, kind: Literal["tanh", "exact"] = "tanh", free=None): ...

    check_arguments(f, {"size": 3, "free": object(), "other": 1}, "config.x")
    with pytest.raises(UserError, match=r"^config.x.size is 0. It must be a whole number of at least 1.$"):
        check_arguments(f, {"size": 0}, "config.x")
    with pytest.raises(UserError, match="config.x.kind is 'exakt'. Did you mean 'exact'"):
        check_arguments(f, {"kind": "exakt"}, "config.x")
    with pytest.raises(UserError, match="9…9"):
        check_arguments(f, {"size": "9" * 5000}, "config.x")
