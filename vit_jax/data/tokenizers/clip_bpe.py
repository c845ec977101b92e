"""CLIP's tokens: pairs of bytes joined within lower-case words (Radford et al., arXiv:2103.00020, section 2.4)."""

import functools
import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import ftfy
import numpy as np
import regex
from jaxtyping import Bool

from vit_jax.data.byte_pairs import BYTE_OF, BYTE_ORDER, BytePairs, read_pairs
from vit_jax.data.vocabularies import File, Vocabulary, damaged, read_vocabulary, shipped
from vit_jax.data.words import Derived, Remembered, joined, utf8

_END = "</w>"
_PAIRS = 48894  # those of the file that have tokens; OpenAI's code passes over the rest
# With IGNORECASE, as in OpenAI's code: text is lower case by then, but "ſ" is an "s" too.
_WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


@dataclass(frozen=True)
class CLIP(Derived):
    """49,408 tokens: the bytes, the bytes at the end of a word, 48,894 pairs, and the start and the end of a text.

    Padding is 0, as in OpenAI's code, where it is the token of "!" as well: only a mask tells the two apart. (The model
    never sees it: attention is causal, and the features are those of the end.) The names of start and end in a text are
    written with ordinary tokens, which is not so in OpenAI's code and open_clip: there a caption that says
    "<|endoftext|>", or "<end_of_text>", ends there.
    """

    merges: Vocabulary

    pad_id = 0
    bos_id = 49406
    eos_id = 49407
    vocab_size = 49408
    cls_id = sep_id = mask_id = unk_id = None

    def to_json(self) -> dict[str, Any]:
        return {"path": self.merges.to_json()}

    def encode(self, text: str) -> list[int]:
        return list(chain.from_iterable(map(self._words.__getitem__, _WORDS.findall(clean(text)))))

    def decode(self, ids: Sequence[int]) -> str:
        """The text as it was cleaned, with a space after every word."""
        return joined(self._pieces, ids).decode("utf-8", "replace").rstrip(" ")

    @functools.cached_property
    def ends(self) -> Bool[np.ndarray, " V"]:
        return np.array([piece.endswith(b" ") for piece in self._pieces])

    @functools.cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Those that are joined, the first one first, as the file writes them."""
        return read_pairs(self.merges, _END, _PAIRS)

    @property
    def symbols(self) -> list[str]:
        """The tokens before start and end, as the file writes them."""
        return [*BYTE_OF, *(symbol + _END for symbol in BYTE_OF), *(left + right for left, right in self.pairs)]

    @functools.cached_property
    def _pieces(self) -> list[bytes]:
        names = [bytes([byte]) for byte in BYTE_ORDER]
        names += [name + b" " for name in names]
        for left, right in self.pairs:
            end = right.endswith(_END)
            names.append(bytes([BYTE_OF[c] for c in left + right.removesuffix(_END)]) + b" " * end)
        return [*names, b"", b""]

    @functools.cached_property
    def _words(self) -> Remembered:
        ids = {symbol: at for at, symbol in enumerate(self.symbols)}
        starts = sorted(range(256), key=BYTE_ORDER.__getitem__)
        merges = {(ids[left], ids[right]): rank for rank, (left, right) in enumerate(self.pairs)}
        pairs = BytePairs(starts, merges, range(512, 512 + _PAIRS), ends=[256 + start for start in starts])
        return Remembered(pairs.tokens)


def clean(text: str) -> str:
    """What CLIP reads of a text: mended where it was decoded wrongly, HTML's entities as characters (twice, for those
    of escaped pages), one space between words, lower case."""
    utf8(text)
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


# Fields, evaluators and tasks of one run each ask for it, and its tables take a second. Files are equal whatever their
# names, which a checkpoint and errors say.
@functools.lru_cache(maxsize=2)
def _made(merges: Vocabulary, name: str, shipped: bool) -> CLIP:
    return CLIP(merges)


def build(*, path: File | None = None) -> CLIP:
    """CLIP's tokens.

    Args:
        path: OpenAI's file in a checkpoint, or a copy of it; the one that is shipped by default.
    """
    merges = shipped("bpe_simple_vocab_16e6.txt.gz") if path is None else read_vocabulary(path)
    tokenizer = _made(merges, merges.name, merges.shipped)
    if len(tokenizer.pairs) < _PAIRS:
        raise damaged(tokenizer.merges.name, f"it has {len(tokenizer.pairs)} pairs, and CLIP's has {_PAIRS}")
    return tokenizer
