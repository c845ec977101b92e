import json
import pickle

import pytest
from sentencepiece import SentencePieceProcessor

from tests.marian import TEXTS, write_vocabulary
from vit_jax.data.text import readable, tokenizer_of
from vit_jax.data.tokenizers.marian import build
from vit_jax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marian")
    write_vocabulary(folder, extra=(">>deu<<",))
    return folder


def section(folder, side):
    return {"name": "marian", "path": str(folder / f"{side}.spm"), "vocabulary": str(folder / "vocab.json")}


def test_pieces_of_each_language_have_the_numbers_of_the_vocabulary_they_share(folder):
    names = list(json.loads((folder / "vocab.json").read_text()))
    for side, text in TEXTS.items():
        tokenizer = tokenizer_of(section(folder, side))[0]
        pieces = SentencePieceProcessor(model_file=str(folder / f"{side}.spm")).encode(text, out_type=str)
        assert [names[i] for i in tokenizer.encode(text)] == pieces
        assert tokenizer.decode(tokenizer.encode(text)) == text
        special = (tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id, tokenizer.bos_id)
        assert special == (0, 1, len(names) - 1, len(names) - 1)
        row = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id, tokenizer.pad_id]
        assert readable(tokenizer, row) == text
    source = tokenizer_of(section(folder, "source"))[0]
    assert source.encode("quiz") == [i if (i := names.index(p) if p in names else -1) >= 0 else 1
                                     for p in SentencePieceProcessor(model_file=str(folder / "source.spm"))
                                     .encode("quiz", out_type=str)]  # fmt: skip
    assert 1 in source.encode("quiz")


def test_only_a_language_at_the_start_is_a_token_of_its_own(folder):
    tokenizer = tokenizer_of(section(folder, "source"))[0]
    assert tokenizer.encode(">>deu<< The cat") == [2, *tokenizer.encode("The cat")]
    assert 2 not in tokenizer.encode("The cat >>deu<<") + tokenizer.encode(">>fra<< The cat")
    assert not {tokenizer.eos_id, tokenizer.pad_id} & set(tokenizer.encode("</s> The <pad> cat"))


def test_a_checkpoint_keeps_both_files(folder, tmp_path):
    built, stored = tokenizer_of(section(folder, "target"))
    again = tokenizer_of(json.loads(json.dumps(stored)))[0]
    assert again == built == pickle.loads(pickle.dumps(built))
    assert again.encode(TEXTS["target"]) == built.encode(TEXTS["target"])
    source = tokenizer_of(section(folder, "source"))[0]
    assert built != source and built.numbering == source.numbering  # one matrix embeds both


def test_damaged_files_and_foreign_ids_are_one_sentence(folder, tmp_path):
    (tmp_path / "source.spm").write_bytes(b"no model")
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(UserError, match=r"vocab.json is no vocabulary .* no token '<pad>'"):
        build(path=str(folder / "source.spm"), vocabulary=str(tmp_path / "vocab.json"))
    with pytest.raises(UserError, match=r"source.spm is no vocabulary"):
        build(path=str(tmp_path / "source.spm"), vocabulary=str(folder / "vocab.json"))
    tokenizer = tokenizer_of(section(folder, "source"))[0]
    with pytest.raises(UserError, match="There is no token 900"):
        tokenizer.decode([900])
