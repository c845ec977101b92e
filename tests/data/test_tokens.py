"""Texts in a batch: tokens, which of them are real, which were cut, and which of several texts is shown."""

import collections
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.fields.tokens import Tokens
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.errors import UserError


def fields(**section):
    return build_fields({"text": {"name": "tokens", **section}}, Context())


def row(raw, **section):
    """The arrays of a batch that a text gives."""
    kind = fields(**section)["text"]
    found = kind.batched("text", kind.read(raw, "x", None))
    for name, spec in kind.spec("text").items():
        assert np.shape(found[name]) == spec.shape and np.asarray(found[name]).astype(spec.dtype).dtype == spec.dtype
    assert set(found) == set(kind.spec("text"))
    return found


def test_tokens_of_text_and_back():
    found = row("añb", length=10)
    np.testing.assert_array_equal(found["text"], [1, 100, 198, 180, 101, 2, 0, 0, 0, 0])
    assert found["text"].dtype == np.int32 and found["text_mask"].tolist() == [True] * 6 + [False] * 4
    assert fields(length=10)["text"].text(found["text"]) == "añb"
    np.testing.assert_array_equal(row([5, 6], length=4, bos=False)["text"], [5, 6, 2, 0])


def test_the_end_is_kept_when_a_text_is_cut():
    cut = {"length": 4, "long": "cut", "bos": False}
    found = row("abcdef", **cut)
    np.testing.assert_array_equal(found["text"], [100, 101, 102, 2])
    assert found["text_mask"].all() and found["text_cut"] == 1
    # One that just fits is not.
    found = row("abc", **cut)
    np.testing.assert_array_equal(found["text"], [100, 101, 102, 2])
    assert found["text_cut"] == 0
    np.testing.assert_array_equal(row("abcdef", **cut, eos=False)["text"], [100, 101, 102, 103])


def test_rows_may_be_filled_with_the_end():
    given = {"length": 5, "pad": "end"}
    found = row("a", **given)
    np.testing.assert_array_equal(found["text"], [1, 100, 2, 2, 2])
    assert found["text_mask"].tolist() == [True] * 3 + [False] * 2
    kind = fields(**given)["text"]
    assert kind.text(found["text"]) == "a" and kind.to_json()["pad"] == "end"
    assert "pad" not in fields(length=5)["text"].to_json()


@dataclass(frozen=True)
class OneSpecial:
    """As GPT-2's, which starts, ends and pads with one token, or CLIP's, which pads with that of "!"."""

    pad_id: int
    bos_id: int
    eos_id: int
    vocab_size: ClassVar[int] = 200

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


@pytest.mark.parametrize("specials", [(190, 190, 190), (ord("!"), 180, 181)])
def test_a_token_that_pads_may_be_real(specials):
    kind = Tokens(OneSpecial(*specials), {}, 8, True, True, "fail")
    found = kind.batched("text", kind.read("hi!!", "x", None))
    assert found["text_mask"].tolist() == [True] * 6 + [False] * 2
    assert kind.text(found["text"]) == "hi!!"


def test_nothing_is_no_text():
    assert row("", length=4)["text_mask"].sum() == 2
    with pytest.raises(UserError, match=r"^x is an empty text"):
        row("", length=4, bos=False, eos=False)
    with pytest.raises(UserError, match=r"^Example 0, field 'text', is an empty text"):
        bare = fields(length=4, bos=False, eos=False)
        next(EvalPipeline(ArraySource(None, None, (), {"text": np.array([""])}), None, 1, fields=bare).iterate())


CAPTIONS = np.array([[f"{k}{letter}" for letter in "abc"] for k in range(4)])


def shown(batch):
    kind = fields(length=8)["text"]
    return [kind.text(ids) for ids in batch["text"]]


def test_one_of_several_texts_is_a_function_of_seed_and_element():
    source = ArraySource(None, None, (), {"text": CAPTIONS})

    def pipeline(seed=1, **more):
        return TrainPipeline(source, None, 8, seed, num_threads=0, fields=fields(length=8), **more)

    steps = [shown(pipeline().batch(step)) for step in range(40)]
    # Any order of asking, any slice, any number of threads: the same.
    assert shown(pipeline().batch(7)) == steps[7]
    assert shown(pipeline().batch(7, 2, 0)) + shown(pipeline().batch(7, 2, 1)) == steps[7]
    with pipeline().iterate(7) as batches:
        assert [shown(next(batches)) for _ in range(2)] == steps[7:9]
    assert shown(pipeline(seed=2).batch(7)) != steps[7]
    counts = collections.Counter(text for batch in steps for text in batch)
    # 320 rows, 12 captions: each about 27 times, and an example not always with the same one.
    assert len(counts) == 12 and min(counts.values()) > 10
    # Rows that repeat an example choose for themselves.
    again = shown(pipeline(repeats=8).batch(0))
    assert len({text[0] for text in again}) == 1 and len(set(again)) > 1


def test_evaluation_takes_the_first_of_several_texts():
    source = ArraySource(None, None, (), {"text": CAPTIONS})
    [batch] = EvalPipeline(source, None, 4, num_threads=0, fields=fields(length=8)).iterate()
    assert shown(batch) == ["0a", "1a", "2a", "3a"]
    kind = fields(length=8)["text"]
    for several in (["b", "c"], [b"b", b"c"], np.array(["b", "c"]), np.array(["b", "c"], object)):
        assert kind.choose(several, "x", None) in ("b", b"b")
    for one in ("bc", b"bc", [1, 2], np.array([1, 2]), []):
        assert kind.choose(one, "x", np.random.default_rng(0)) is one


@dataclass(frozen=True)
class Endless(OneSpecial):
    """As a model of sentencepiece without start and end."""

    pad_id: int = 0
    bos_id: None = None
    eos_id: None = None


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"name": "tokens", "bos": False}, "'endless' has no token that ends a text. Set eos=False"),
        ({"name": "tokens", "eos": False}, "'endless' has no token that starts a text. Set bos=False"),
        ({"name": "packed"}, "'endless' has no token that ends a text"),
        ({"name": "token_pair"}, "'endless' has no tokens that stand around texts"),
    ],
)
def test_a_tokenizer_without_the_special_tokens_is_one_sentence(monkeypatch, section, sentence):
    monkeypatch.setattr("vit_jax.data.text.build_named", lambda *_: Endless())
    with pytest.raises(UserError, match=sentence):
        build_fields({"text": {**section, "length": 8, "tokenizer": "endless"}}, Context())
    bare = {"name": "tokens", "length": 4, "bos": False, "eos": False, "tokenizer": "endless"}
    assert build_fields({"text": bare}, Context())["text"].read("ab", "x", None).tolist() == [97, 98]
