import dataclasses
import gzip
import json
import pickle

import numpy as np
import pytest

from tests.texts import names, unicode_texts
from vit_jax.data.tokenizers import bytes as byte_tokens
from vit_jax.data.tokenizers import clip_bpe, gpt2_bpe, wordpiece
from vit_jax.data.vocabularies import read_vocabulary, shipped
from vit_jax.errors import UserError
from vit_jax.naming import build_named

BUILDS = {"bytes": byte_tokens, "clip_bpe": clip_bpe, "gpt2_bpe": gpt2_bpe, "wordpiece": wordpiece}


@pytest.fixture(scope="module", params=sorted(BUILDS))
def tokenizer(request):
    return build_named("tokenizer", {"name": request.param}, "config")


def test_published_vocabularies_have_their_sizes_and_special_tokens():
    assert clip_bpe.build().vocab_size == 49408
    assert len(clip_bpe.build()._pieces) == 49408
    assert gpt2_bpe.build().vocab_size == 50257
    assert wordpiece.build().vocab_size == 30522
    bert = wordpiece.build()
    assert (bert.pad_id, bert.unk_id, bert.cls_id, bert.sep_id, bert.mask_id) == (0, 100, 101, 102, 103)
    assert (bert.bos_id, bert.eos_id) == (101, 102)
    assert {gpt2_bpe.build().bos_id, gpt2_bpe.build().eos_id, gpt2_bpe.build().pad_id} == {50256}


@pytest.mark.parametrize("module", [clip_bpe, gpt2_bpe])
def test_tables_are_made_once_and_a_copy_of_the_file_keeps_its_own_name(module, tmp_path):
    ours = module.build()
    assert module.build() is ours
    (tmp_path / ours.merges.name).write_bytes(ours.merges.data)
    path = str(tmp_path / ours.merges.name)
    copy = module.build(path=path)
    assert copy == ours and copy is not ours and copy.merges.name != ours.merges.name
    assert "data" in copy.to_json()["path"] and "data" not in ours.to_json()["path"]
    # Another file at the same place is read.
    (tmp_path / ours.merges.name).write_bytes(b"no pair")
    with pytest.raises(UserError):
        module.build(path=path)


# The ids that the authors' codes give, which tests/parity/test_tokenizers.py compares at large.
@pytest.mark.parametrize(
    "build, text, ids",
    [
        (clip_bpe, "a photo of a cat", [320, 1125, 539, 320, 2368]),
        (clip_bpe, " A  Photo&amp;amp;", [320, 1125, 261]),
        (gpt2_bpe, "Hello world", [15496, 995]),
        (wordpiece, "Hello, wörld!", [7592, 1010, 2088, 999]),
        (wordpiece, "unaffable", [14477, 20961, 3468]),
    ],
)
def test_known_texts_have_known_tokens(build, text, ids):
    assert build.build().encode(text) == ids


def test_bytes_come_back_from_any_text():
    for tokenizer in (gpt2_bpe.build(), byte_tokens.build()):
        counts = tokenizer.byte_counts()
        for text in ("", " ", "\n\n  a\t", *unicode_texts(300), *names(20)):
            assert tokenizer.decode(tokenizer.encode(text)) == text
            assert sum(counts[i] for i in tokenizer.encode(text)) == len(text.encode("utf-8"))


def test_texts_come_back_as_they_were_cleaned():
    assert clip_bpe.build().decode(clip_bpe.build().encode("A  Photo of\na CAT")) == "a photo of a cat"
    assert wordpiece.build().decode([101, *wordpiece.build().encode("Unaffable CAFÉ"), 102, 0]) == "unaffable cafe"
    cased = wordpiece.WordPiece(shipped("bert_uncased.txt"), lower=False)
    assert cased.encode("Cat cat") == [100, cased._ids["cat"]]


@pytest.mark.parametrize(
    "text", ["[MASK]", "[SEP]", "<|endoftext|>", "<|startoftext|>", "<start_of_text>", "<end_of_text>"]
)
def test_a_text_cannot_write_special_tokens(tokenizer, text):
    special = {getattr(tokenizer, f"{name}_id") for name in ("bos", "eos", "cls", "sep", "mask", "unk")}
    assert not special & set(tokenizer.encode(f"it {text} is"))


def test_a_tokenizer_is_sent_to_workers_without_its_tables(tokenizer):
    text = "A café, 日本 and [MASK]"
    ids = tokenizer.encode(text)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer
    assert hash(copy) == hash(tokenizer)
    assert not {"_words", "_pieces", "_ids"} & set(vars(copy))
    assert copy.encode(text) == ids


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"holds U\+D83D, half of a surrogate pair"):
        tokenizer.encode(json.loads('"word \\ud83d"'))


@pytest.mark.parametrize("outside", [-1, 10**6])
def test_a_token_outside_the_vocabulary_is_refused(tokenizer, outside):
    with pytest.raises(UserError, match=f"no token {outside} in a vocabulary of {tokenizer.vocab_size}"):
        tokenizer.decode([5, outside])


@pytest.mark.parametrize("build, words", [(gpt2_bpe, " the unaffable"), (wordpiece, "the unaffable")])
def test_which_tokens_go_on_a_word(build, words):
    tokenizer = build.build()
    first, *others = tokenizer.encode(words)
    assert [bool(tokenizer.continues[i]) for i in (first, *others)] == [False, False] + [True] * (len(others) - 1)
    assert len(others) > 1
    assert not tokenizer.continues[tokenizer.encode(",")].any()
    assert not tokenizer.continues[[tokenizer.pad_id, tokenizer.eos_id]].any()


def test_long_words_take_time_that_grows_with_their_length():
    # A merge that looked through all of the word each time would take hours.
    tokenizer = gpt2_bpe.build()
    text = "ab" * 50_000
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not any(len(word) > 64 for word in tokenizer._words)


def test_words_that_are_remembered_are_not_all_kept(monkeypatch):
    monkeypatch.setattr("vit_jax.data.words._MOST", 10)
    tokenizer = gpt2_bpe.build()
    for number in range(100):
        tokenizer.encode(f"word{number}")
    assert len(tokenizer._words) <= 10


def write(path, data):
    path.write_bytes(data)
    return str(path)


MERGES = b"#version: 0.2\nt h\nth e\n"


def test_merges_of_ones_own(tmp_path):
    tokenizer = gpt2_bpe.build(path=write(tmp_path / "merges.txt", MERGES))
    assert tokenizer.vocab_size == 256 + 2 + 1
    assert tokenizer.encode("the") == [257]
    assert tokenizer != gpt2_bpe.build()


@pytest.mark.parametrize(
    "data, why",
    [
        (b"t h\nth  e\n", "line 2 joins"),
        (b"t h\nthe y\n", "line 2 joins 'the y', and nothing before it made these"),
        (b"t h\nt h\n", "line 2 makes 'th' a second time"),
        (b"t h\nt \xff\n", "Line 2 of .*merges.txt is not UTF-8"),
        (gzip.compress(MERGES, mtime=0)[:-9], "its end is missing"),
        (b"\x1f\x8b" + b"nothing" * 9, "cannot be unpacked"),
    ],
)
def test_damaged_merges_are_refused(tmp_path, data, why):
    with pytest.raises(UserError, match=why):
        gpt2_bpe.build(path=write(tmp_path / "merges.txt", data))


@pytest.mark.parametrize(
    "data, why",
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "lines 6 and 7 are both 'a'"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", r"it has no \[MASK\]"),
        (b"[PAD]\n\xff\xfe\n", "Line 2 of .*vocab.txt is not UTF-8"),
    ],
)
def test_damaged_vocabularies_are_refused(tmp_path, data, why):
    with pytest.raises(UserError, match=why):
        wordpiece.build(path=write(tmp_path / "vocab.txt", data))


def test_a_vocabulary_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_vocabulary(tmp_path / "none.txt")


def test_vocabularies_are_told_apart_by_what_is_in_them(tmp_path):
    first = read_vocabulary(write(tmp_path / "a.txt", b"x"))
    assert first == read_vocabulary(write(tmp_path / "b.txt", b"x"))
    assert first != read_vocabulary(write(tmp_path / "c.txt", b"y"))


def test_a_tokenizer_is_of_plain_values(tokenizer):
    assert dataclasses.is_dataclass(tokenizer)
    assert len(pickle.dumps(tokenizer)) < 2**21
    counts = getattr(tokenizer, "byte_counts", None)
    assert counts is None or (counts().dtype == np.int32 and counts().shape == (tokenizer.vocab_size,))
