"""One text or two in a row, as BERT reads them."""

import json
import pickle

import numpy as np
import pytest

from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.text import kept_lengths
from vit_jax.errors import UserError


def fields(**section):
    return build_fields({"text": {"name": "token_pair", "tokenizer": "bytes", **section}}, Context())


def row(raw, **section):
    kind = fields(**section)["text"]
    found = kind.batched("text", kind.read(raw, "x", None))
    assert {name: (spec.shape, spec.dtype) for name, spec in kind.spec("text").items()} == {
        name: (np.shape(value), "int32" if isinstance(value, int) else str(value.dtype))
        for name, value in found.items()
    }
    return found


def test_two_texts_and_one():
    # bytes has no [CLS] and [SEP]: its start and end stand for them.
    found = row(("ab", "c"), length=8)
    assert found["text"].tolist() == [1, 100, 101, 2, 102, 2, 0, 0]
    assert found["text_segments"].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert found["text_mask"].tolist() == [True] * 6 + [False] * 2 and found["text_cut"] == 0
    for same in (["ab", "c"], np.array(["ab", "c"]), [b"ab", "c"], [[100, 101], np.array([102])]):
        np.testing.assert_array_equal(row(same, length=8)["text"], found["text"])
    assert fields(length=8)["text"].caption("text", found) == "ab | c"
    found = row("ab", length=8)
    assert found["text"].tolist() == [1, 100, 101, 2, 0, 0, 0, 0] and not found["text_segments"].any()
    for same in (["ab"], [100, 101], b"ab"):
        np.testing.assert_array_equal(row(same, length=8)["text"], found["text"])
    assert fields(length=8)["text"].caption("text", found) == "ab"


def test_the_longer_one_is_cut_first():
    found = row(("abcdef", "xy"), length=9)
    assert found["text"].tolist() == [1, 100, 101, 102, 103, 2, 123, 124, 2]
    assert found["text_segments"].tolist() == [0] * 6 + [1] * 3 and found["text_cut"] == 1
    found = row("abcdef", length=6)
    assert found["text"].tolist() == [1, 100, 101, 102, 103, 2] and found["text_cut"] == 1
    assert "text_cut" not in row("ab", length=6, long="fail")


def test_lengths_are_those_of_berts_code():
    for room in range(2, 9):
        for a in range(1, 12):
            for b in range(1, 12):
                first, second = a, b
                while first + second > room:
                    if first > second:
                        first -= 1
                    else:
                        second -= 1
                assert kept_lengths(a, b, room) == (first, second)


@pytest.mark.parametrize(
    "raw, sentence",
    [
        (("a", ""), "^x has an empty text"),
        ("", "^x has an empty text"),
        (("a", "b", "c"), "has 3 texts, where one or two are taken"),
        (("a", 3), "neither a text nor a list of tokens"),
        (("a", b"\xff"), "bytes that are not UTF-8"),
        (([1], [900]), "tokens from 900 to 900, of 259"),
        (("abc", "def"), "has 6 tokens, more than the 5 that the field holds"),
    ],
)
def test_bad_values_are_one_sentence(raw, sentence):
    with pytest.raises(UserError, match=sentence):
        row(raw, length=8, long="fail")


def test_it_is_stored_and_rebuilt():
    made = fields(length=9, long="fail")
    assert build_fields(json.loads(json.dumps(made.to_json())), Context()) == made == pickle.loads(pickle.dumps(made))
    with pytest.raises(UserError, match="A length of 4 leaves no room for two texts"):
        fields(length=4)
