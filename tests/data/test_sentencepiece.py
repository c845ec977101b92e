import io
import pickle

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from vit_jax.checkpoints.parts.siglip import field
from vit_jax.checkpoints.published import Sidecar
from vit_jax.data.fields import Context, build_fields
from vit_jax.data.text import tokenizer_of
from vit_jax.data.tokenizers.sentencepiece import build, canonicalized
from vit_jax.errors import UserError

TEXT = "The cat sat on the mat, and the other cat sat on the other mat. A photo of a dog and of two cats."


def trained(path, **special):
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT, TEXT.lower()] * 5), model_writer=model, vocab_size=30, minloglevel=2, **special
    )
    path.write_bytes(model.getvalue())
    return str(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("spm") / "t5.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def test_tokens_are_the_librarys(path):
    library = SentencePieceProcessor(model_file=path)
    tokenizer = build(path=path)
    assert tokenizer.encode(TEXT) == library.encode(TEXT)
    assert tokenizer.decode(tokenizer.encode("the cat sat")) == "the cat sat"
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.bos_id) == (0, 1, 2, None)
    assert 1 not in tokenizer.encode("the </s> cat")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer
    assert copy.encode(TEXT) == tokenizer.encode(TEXT)
    stored = tokenizer_of({"name": "sentencepiece", "path": path, "canonical": True})[1]
    assert tokenizer_of(stored)[0] == build(path=path, canonical=True) != tokenizer


def test_texts_are_made_canonical_as_for_siglip(path):
    assert canonicalized("A_photo  of\na 'Dog', 100%!") == "a photo of a dog 100"
    assert build(path=path, canonical=True).encode("THE Cat's, mat!") == build(path=path).encode("the cats mat")


def test_texts_are_made_lower_case_as_for_siglip_2(path):
    """Punctuation stays; a run that was made before there was the option is described as it was."""
    plain = build(path=path)
    lower = build(path=path, lower_case=True)
    assert lower.encode("THE Cat, a Mat.") == plain.encode("the cat, a mat.") != plain.encode("THE Cat, a Mat.")
    assert tokenizer_of(lower.to_json() | {"name": "sentencepiece"})[0] == lower != plain
    assert "lower_case" not in plain.to_json()


def test_siglip_2s_field_has_lower_case_and_the_vocabularys_padding(path):
    """It is known by its 256,000 tokens, whatever vocabulary lies beside the file."""
    for tokens, ids in ((256_000, "the cat's mat, and"), (32_000, "the cats mat and")):
        section, said = field(Sidecar(vocabularies={"tokenizer.model": path}), tokens, 20)
        of_text = build_fields({"text": section}, Context(None, ()))["text"]
        row = of_text.batched("text", of_text.read("THE Cat's mat, and", "text", None))["text"].tolist()
        wanted = [*build(path=path).encode(ids)[:19], 1]
        assert row == wanted + [0 if tokens == 256_000 else 1] * (20 - len(wanted))
        assert said == ()


def test_siglips_rows_end_with_the_end_and_are_filled_with_it(path):
    tokenizer = {"name": "sentencepiece", "path": path, "canonical": True, "pad_with_end": True}
    section = {"name": "tokens", "tokenizer": tokenizer, "length": 64, "bos": False, "long": "cut"}
    fields = build_fields({"text": section}, Context(None, ()))
    of_text = fields["text"]

    def row(text):
        return of_text.batched("text", of_text.read(text, "text", None))["text"].tolist()

    ids = of_text.tokenizer.encode("the cat")
    assert row("The cat!") == ids + [1] * (64 - len(ids))
    long = row(TEXT * 9)
    assert len(long) == 64
    assert long[-1] == 1
    assert 1 not in long[:-1]


def test_a_model_without_padding_pads_with_its_end(tmp_path):
    tokenizer = build(path=trained(tmp_path / "x.model"))
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (2, 1, 2)


def test_what_it_cannot_do_is_said(path, tmp_path):
    (tmp_path / "x.model").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"x.model is no vocabulary that can be read: SentencePiece finds no model"):
        build(path=str(tmp_path / "x.model"))
    with pytest.raises(UserError, match="no token 30 in a vocabulary of 30"):
        build(path=path).decode([30])
    with pytest.raises(UserError, match="half of a surrogate pair"):
        build(path=path).encode("a \ud83d")
