"""What annotations allow, and how they are said."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.checkpoints.policy import Policy
from vit_jax.data.mix import Mix
from vit_jax.data.preprocess import Preprocess
from vit_jax.naming import _ROOMS
from vit_jax.ranges import (
    Count,
    Decay,
    Natural,
    NonNegative,
    Positive,
    Share,
    _annotations,
    _members,
    allowed,
    check_arguments,
    described,
)
from vit_jax.training import optim, schedules
from vit_jax.training.config import RunConfig
from vit_jax.training.inputs import Inputs


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


def _readers():
    """Everything that a config section is given to, by name."""
    for kind, package in _ROOMS.items():
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            built = importlib.import_module(f"{package}.{module.name}")
            if hasattr(built, "build"):
                yield f"{kind}.{module.name}", built.build
    yield from {**optim.OPTIMIZERS, **schedules.SCHEDULES}.items()
    yield from ((each.__name__, each) for each in (RunConfig, Inputs, Mix, Preprocess, Policy))


# Numbers without a range in their annotation: of any sign, or checked by the code that they go to.
_WITHOUT = {
    "head_bias_init", "layer_scale_init", "logit_bias", "mean", "shift",  # of any sign
    "steps", "stop_at", "eval_every", "log_every",  # durations: vit_jax.training.durations
    "mixup", "cutmix", "erase", "resize_to", "canvas", "mask_ratio", "image_size", "num_classes",
}  # fmt: skip


def test_every_number_of_a_config_has_its_range():
    bare = {
        f"{reader}.{key}"
        for reader, function in _readers()
        for key, annotation in _annotations(function).items()
        if key not in _WITHOUT | {"return"} and {int, float} & set(_members(annotation))
    }
    bare -= {"model.resnet.variant", "model.vgg.variant"}  # names, which happen to be numbers
    assert {each for each in bare if not each.startswith("transform.")} == set(), "annotate it, see vit_jax.ranges"
