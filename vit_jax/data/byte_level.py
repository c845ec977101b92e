"""What tokenizers have in common whose tokens are bytes, joined within words as GPT-2's are.

Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.2.
"""

import functools
from collections.abc import Sequence
from itertools import chain

import numpy as np
import regex
from jaxtyping import Bool, Int32

from vit_jax.data.byte_pairs import continues
from vit_jax.data.words import Derived, Remembered, joined

# English endings, words and numbers with the space before them, punctuation, and space; the last space before a word
# is that word's.
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


class ByteLevel(Derived):
    """A tokenizer that gives any text back.

    Its classes have `_pieces`, the bytes of each token, and `_words`, the tokens of a word.
    """

    _pieces: Sequence[bytes]
    _words: Remembered

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        return list(chain.from_iterable(map(self._words.__getitem__, WORDS.findall(text))))

    def decode(self, ids: Sequence[int]) -> str:
        """The text; what is no UTF-8, as in a text that was cut, becomes the replacement character."""
        return joined(self._pieces, ids).decode("utf-8", "replace")

    def byte_counts(self) -> Int32[np.ndarray, " V"]:
        return np.array([len(piece) for piece in self._pieces], np.int32)

    @functools.cached_property
    def continues(self) -> Bool[np.ndarray, " V"]:
        return continues(self._pieces)
