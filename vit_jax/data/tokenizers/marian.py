"""Tokens of Marian's translation models: the pieces of a SentencePiece model, numbered by a vocabulary of its own that
the two languages share."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sentencepiece import SentencePieceProcessor

from vit_jax.data.piece_model import piece_model
from vit_jax.data.tokenizer_json import numbers_in
from vit_jax.data.vocabularies import File, Vocabulary, damaged, read_vocabulary
from vit_jax.data.words import Derived, outside, utf8

_PAD, _END, _UNKNOWN = "<pad>", "</s>", "<unk>"
_LANGUAGE = re.compile(r">>[^<>]+<<")


@dataclass(frozen=True)
class Marian(Derived):
    """The tokens of one of the two languages. A text may start with the language to translate into, such as ">>deu<<",
    where the vocabulary has it: one token. Other special tokens in a text are written with ordinary ones.

    A translation starts with the padding.

    Args:
        model: the .spm file of the language.
        vocabulary: vocab.json, the number of each piece.
    """

    model: Vocabulary
    vocabulary: Vocabulary

    cls_id = sep_id = mask_id = None

    @property
    def vocab_size(self) -> int:
        return len(self._numbers)

    @property
    def pad_id(self) -> int:
        return self._numbers[_PAD]

    @property
    def bos_id(self) -> int:
        return self.pad_id

    @property
    def eos_id(self) -> int:
        return self._numbers[_END]

    @property
    def unk_id(self) -> int:
        return self._numbers[_UNKNOWN]

    @property
    def numbering(self) -> Vocabulary:
        """Of both languages the same."""
        return self.vocabulary

    def to_json(self) -> dict[str, Any]:
        return {"path": self.model.to_json(), "vocabulary": self.vocabulary.to_json()}

    def encode(self, text: str) -> list[int]:
        utf8(text)
        language = _LANGUAGE.match(text)
        codes = [language.group()] if language and language.group() in self._numbers else []
        pieces = self._library.encode(text[len("".join(codes)) :], out_type=str)
        special = (_PAD, _END)
        return [self._numbers.get(p, self.unk_id) if p not in special else self.unk_id for p in codes + pieces]

    def decode(self, ids: Sequence[int]) -> str:
        names = self._names
        for i in ids:
            if not 0 <= i < len(names):
                raise outside(int(i), len(names))
        return self._library.decode_pieces([names[i] for i in ids]).strip()

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return numbers_in(self.vocabulary)

    @functools.cached_property
    def _names(self) -> list[str]:
        return sorted(self._numbers, key=self._numbers.__getitem__)

    @functools.cached_property
    def _library(self) -> SentencePieceProcessor:
        return piece_model(self.model)


def build(*, path: File, vocabulary: File) -> Marian:
    """The tokens of a Marian folder.

    Args:
        path: source.spm, or target.spm for the language of the translations.
        vocabulary: vocab.json.
    """
    tokenizer = Marian(read_vocabulary(path), read_vocabulary(vocabulary))
    for token in (_PAD, _END, _UNKNOWN):
        if token not in tokenizer._numbers:
            raise damaged(tokenizer.vocabulary.name, f"it has no token {token!r}")
    tokenizer._library  # noqa: B018  a damaged file is found here, not in the middle of an epoch
    return tokenizer
