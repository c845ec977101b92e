"""BERT's tokens: words cut into the longest pieces of a vocabulary (Devlin et al., arXiv:1810.04805; WordPiece)."""

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Bool

from vit_jax.data.tokenizer_json import is_json, model_in
from vit_jax.data.unicode8 import category
from vit_jax.data.vocabularies import File, Vocabulary, damaged, read_vocabulary, shipped
from vit_jax.data.words import Derived, Remembered, outside, utf8

_GOES_ON = "##"
_LONGEST = 100  # characters of a word; a longer one is unknown
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Han characters, each of which is a word: the blocks that BERT's code names, without kana and hangul. (The first 256 of
# 0x2B820 to 0x2CEAF are left out as the `tokenizers` library has it; unknown to the vocabulary they are in any case.)
_HAN = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True)
class WordPiece(Derived):
    """30,522 tokens of BERT uncased, or those of another vocab.txt.

    `[CLS]` starts a text and `[SEP]` ends it. Their names in a text, and "[MASK]", are written with ordinary tokens, as
    in Google's code; transformers makes the one token of it, unless it is told `split_special_tokens=True`.

    Args:
        vocabulary: one piece a line, the first with id 0, or a tokenizer.json; those that go on a word start with "##".
        lower: whether capitals and accents are taken away first, as for the uncased models.
    """

    vocabulary: Vocabulary
    lower: bool = True

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    @property
    def pad_id(self) -> int:
        return self._ids["[PAD]"]

    @property
    def unk_id(self) -> int:
        return self._ids["[UNK]"]

    @property
    def cls_id(self) -> int:
        return self._ids["[CLS]"]

    @property
    def sep_id(self) -> int:
        return self._ids["[SEP]"]

    @property
    def mask_id(self) -> int:
        return self._ids["[MASK]"]

    bos_id, eos_id = cls_id, sep_id

    def to_json(self) -> dict[str, Any]:
        return {"path": self.vocabulary.to_json(), "lower": self.lower}

    def encode(self, text: str) -> list[int]:
        utf8(text)
        words = text.translate(_CHARACTERS).split()
        return list(chain.from_iterable(map(self._words.__getitem__, words)))

    def decode(self, ids: Sequence[int]) -> str:
        """The words, with a space before each that does not go on the one before; without padding, start and end."""
        text, silent = "", {self.pad_id, self.cls_id, self.sep_id}
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise outside(i, self.vocab_size)
            if i not in silent:
                piece = self._pieces[i]
                text += piece.removeprefix(_GOES_ON) if piece.startswith(_GOES_ON) else f" {piece}"
        return text.removeprefix(" ")

    @functools.cached_property
    def continues(self) -> Bool[np.ndarray, " V"]:
        return np.array([piece.startswith(_GOES_ON) for piece in self._pieces])

    @functools.cached_property
    def _pieces(self) -> list[str]:
        if is_json(self.vocabulary):
            numbers, _ = model_in(self.vocabulary, "WordPiece")
            return sorted(numbers, key=numbers.__getitem__)
        pieces = [line.removesuffix("\r") for line in self.vocabulary.text().split("\n")]
        return pieces[:-1] if not pieces[-1] else pieces

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        ids: dict[str, int] = {}
        for number, piece in enumerate(self._pieces):
            if piece in ids:
                raise damaged(self.vocabulary.name, f"lines {ids[piece] + 1} and {number + 1} are both {piece!r}")
            ids[piece] = number
        for name in _SPECIAL:
            if name not in ids:
                raise damaged(self.vocabulary.name, f"it has no {name}")
        return ids

    @functools.cached_property
    def _words(self) -> Remembered:
        return Remembered(self._tokens)

    def _tokens(self, word: str) -> list[int]:
        """Of what stands between spaces: a word with its punctuation."""
        if self.lower:
            letters = (c for c in unicodedata.normalize("NFD", word) if category(c) != "Mn")
            word = "".join(map(str.lower, letters))  # one by one, so that no letter depends on its neighbours
        return list(chain.from_iterable(map(self._cut, _parts(word))))

    def _cut(self, word: str) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(word) <= _LONGEST:
            before = _GOES_ON if start else ""
            for end in range(len(word), start, -1):
                if (found := self._ids.get(before + word[start:end])) is not None:
                    break
            else:
                return [self.unk_id]
            ids.append(found)
            start = end
        return ids if len(word) <= _LONGEST else [self.unk_id]


def _parts(word: str) -> list[str]:
    """A word cut at punctuation, each mark of which is a part."""
    parts = [""]
    for character in word:
        if _is_punctuation(character):
            parts += [character, ""]
        else:
            parts[-1] += character
    return [part for part in parts if part]


@functools.cache
def _is_punctuation(character: str) -> bool:
    # "$", "+" and the like are symbols to Unicode, and punctuation to BERT.
    symbol = character.isascii() and character.isprintable() and not character.isalnum() and character != " "
    return symbol or category(character).startswith("P")


class _Characters(dict[int, str]):
    """What a character becomes before a text is cut at spaces, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = category(character)
        if character in "\t\n\r" or kind == "Zs":
            new = " "
        elif character in "\0\ufffd" or kind in ("Cc", "Cf", "Co"):
            new = ""
        elif any(low <= code <= high for low, high in _HAN):
            new = f" {character} "
        else:
            new = character
        self[code] = new
        return new


_CHARACTERS = _Characters()


def build(*, path: File | None = None, lower: bool = True) -> WordPiece:
    """BERT's tokens.

    Args:
        path: a vocab.txt or tokenizer.json; the one of BERT uncased by default.
        lower: whether capitals and accents are taken away first.
    """
    tokenizer = WordPiece(shipped("bert_uncased.txt") if path is None else read_vocabulary(path), lower)
    tokenizer._ids  # noqa: B018  a damaged file is found here, not in the middle of an epoch
    return tokenizer
