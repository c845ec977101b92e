"""The files that transformers writes beside its weights."""

import json

import pytest

from vit_jax.data.byte_pairs import BYTE_OF
from vit_jax.data.text import tokenizer_of
from vit_jax.data.tokenizers import gpt2_bpe, wordpiece
from vit_jax.errors import UserError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s"]
NUMBERS = {name: at for at, name in enumerate([*BYTE_OF, "th", "the", "<|endoftext|>"])}
BPE = {"type": "BPE", "vocab": NUMBERS, "merges": ["t h", "th e"]}


def write(path, model):
    path.write_text(json.dumps({"version": "1.0", "model": model}))
    return str(path)


def test_wordpiece_reads_tokenizer_json_whatever_the_order_in_it(tmp_path):
    numbers = {piece: at for at, piece in reversed(list(enumerate(PIECES)))}
    path = write(tmp_path / "tokenizer.json", {"type": "WordPiece", "vocab": numbers})
    tokenizer = wordpiece.build(path=path)
    assert (tokenizer.vocab_size, tokenizer.mask_id) == (7, 4)
    assert tokenizer.encode("Cats") == [5, 6]
    # A checkpoint keeps it like any other.
    assert tokenizer_of(tokenizer_of({"name": "wordpiece", "path": path})[1])[0] == tokenizer


@pytest.mark.parametrize("merges", [["t h", "th e"], [["t", "h"], ["th", "e"]]])
def test_gpt2_reads_tokenizer_json_of_both_ages(tmp_path, merges):
    tokenizer = gpt2_bpe.build(path=write(tmp_path / "tokenizer.json", BPE | {"merges": merges}))
    assert tokenizer.vocab_size == 259
    assert tokenizer.encode("the") == [257]


@pytest.mark.parametrize(
    "build, model, why",
    [
        (wordpiece, BPE, "its model is not of the type WordPiece"),
        (wordpiece, None, "its model is not of the type WordPiece"),
        (wordpiece, {"vocab": {"a": 0, "b": 2}}, "its tokens are not numbered from 0 on"),
        (wordpiece, {"vocab": ["a", "b"]}, "its tokens are not numbered from 0 on"),
        (wordpiece, {"vocab": {"a": True}}, "its tokens are not numbered from 0 on"),
        (gpt2_bpe, {"type": "Unigram", "vocab": []}, "its model is not of the type BPE"),
        (gpt2_bpe, BPE | {"merges": 3}, "its merges are no list"),
        (gpt2_bpe, BPE | {"merges": ["t h", "th y e"]}, "line 2 joins 'th y e'"),
        (gpt2_bpe, BPE | {"vocab": NUMBERS | {"th": 257, "the": 256}}, "gives 'th' the number 257, and GPT-2's order"),
    ],
)
def test_other_files_are_refused(tmp_path, build, model, why):
    with pytest.raises(UserError, match=why):
        build.build(path=write(tmp_path / "tokenizer.json", model))


def test_what_only_looks_like_json_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(UserError, match="it is not JSON"):
        wordpiece.build(path=str(tmp_path / "tokenizer.json"))
