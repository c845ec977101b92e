"""Tokens of a SentencePiece model, such as those of T5 and SigLIP (Kudo and Richardson, arXiv:1808.06226)."""

import functools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sentencepiece import SentencePieceProcessor

from vit_jax.data.piece_model import piece_model
from vit_jax.data.vocabularies import File, Vocabulary, read_vocabulary
from vit_jax.data.words import Derived, outside, utf8

_NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


@dataclass(frozen=True)
class SentencePiece(Derived):
    """The tokens of a .model file, encoded and decoded by the `sentencepiece` library.

    Control symbols such as "</s>" in a text are written with ordinary tokens, as the library does it; it makes one
    token of those that a model calls user-defined.

    Args:
        model: the file.
        canonical: whether texts are made lower case and lose their punctuation first, as for SigLIP.
        pad_with_end: whether rows are filled with the end token, as for SigLIP, rather than the model's padding.
        lower_case: whether texts are made lower case first and keep their punctuation, as for SigLIP 2.
    """

    model: Vocabulary
    canonical: bool = False
    pad_with_end: bool = False
    lower_case: bool = False

    cls_id = sep_id = mask_id = None

    @property
    def vocab_size(self) -> int:
        return self._library.vocab_size()

    @property
    def pad_id(self) -> int:
        """A model without padding pads with the end, or else with the unknown token: a mask tells which it is."""
        own = None if self.pad_with_end else _there(self._library.pad_id())
        return next(i for i in (own, self.eos_id, self.unk_id) if i is not None)

    @property
    def bos_id(self) -> int | None:
        return _there(self._library.bos_id())

    @property
    def eos_id(self) -> int | None:
        return _there(self._library.eos_id())

    @property
    def unk_id(self) -> int:
        return self._library.unk_id()

    def to_json(self) -> dict[str, Any]:
        own = {"canonical": self.canonical, "pad_with_end": self.pad_with_end}
        # Left out where it is not asked for, so that what older runs have stored is still the same.
        own |= {"lower_case": True} if self.lower_case else {}
        return {"path": self.model.to_json(), **own}

    def encode(self, text: str) -> list[int]:
        utf8(text)
        text = text.lower() if self.lower_case else text
        return self._library.encode(canonicalized(text) if self.canonical else text)

    def decode(self, ids: Sequence[int]) -> str:
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise outside(i, self.vocab_size)
        return self._library.decode(ids)

    @functools.cached_property
    def _library(self) -> SentencePieceProcessor:
        return piece_model(self.model)


def canonicalized(text: str) -> str:
    """What SigLIP reads of a text: lower case without ASCII punctuation, one space between words (big_vision's
    `canonicalize_text`)."""
    return " ".join(text.translate(_NO_PUNCTUATION).lower().split())


def _there(token: int) -> int | None:
    return None if token < 0 else token


def build(
    *, path: File, canonical: bool = False, pad_with_end: bool = False, lower_case: bool = False
) -> SentencePiece:
    """The tokens of a SentencePiece model. SigLIP's field has `canonical`, `pad_with_end`, `length=64`, `bos=False` and
    `long="cut"`, that of SigLIP 2 `lower_case` in place of the first two.

    Args:
        path: the .model file.
        canonical: take away capitals and punctuation first.
        pad_with_end: fill rows with the end token.
        lower_case: take away capitals alone.
    """
    tokenizer = SentencePiece(read_vocabulary(path), canonical, pad_with_end, lower_case)
    tokenizer._library  # noqa: B018  a damaged file is found here, not in the middle of an epoch
    return tokenizer
