"""What metadata must be before anything is built from them, whoever wrote them."""

import pytest

from vit_jax.checkpoints.metadata import problem_with

WHOLE = {
    "format": 3, "step": 4, "config": {}, "task": {"name": "classify", "kwargs": {}}, "model": None, "fields": None,
    "preprocess": None, "labels": ["a"], "image_size": [8, 16], "product": "ema", "frozen_in": "frozen-0123abcd",
    "bases": [{"path": "x", "relative": None, "names": {"a": "b"}, "checksums": {"a": {}}}], "lora": {"rank": 1},
    "loaded_from": ["hf://owner/name@0123"],
}  # fmt: skip


def test_whole_metadata_have_no_problem():
    assert problem_with(WHOLE) == ""
    assert problem_with({k: v for k, v in WHOLE.items() if k in ("format", "step", "config", "task", "model", "fields",
                         "preprocess", "labels", "image_size", "product")}) == ""  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "3"), ("step", -1), ("step", True), ("config", []), ("task", {"name": "classify"}), ("model", "vit"),
        ("fields", []), ("preprocess", 7), ("labels", [1]), ("labels", "ab"), ("image_size", [8]), ("image_size", [8, 0]),
        ("product", "weights"), ("frozen_in", "frozen-01"), ("frozen_in", "../frozen-0123abcd"), ("frozen_in", 7),
        ("bases", {}), ("bases", [{"path": "x"}]), ("bases", [WHOLE["bases"][0] | {"names": {"b": "b"}}]), ("lora", 8),
        ("loaded_from", 7), ("loaded_from", [None]),
    ],
)  # fmt: skip
def test_the_key_that_is_wrong_is_named(key, value):
    assert f"'{key}'" in problem_with(WHOLE | {key: value})


def test_a_key_that_is_missing_is_named():
    assert problem_with({k: v for k, v in WHOLE.items() if k != "labels"}) == "its metadata have no 'labels'"
