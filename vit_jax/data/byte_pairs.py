"""Byte-pair encoding: the bytes of a word, of which pairs are joined in the order in which training learned them
(Sennrich et al., arXiv:1508.07909; on bytes, as GPT-2)."""

import heapq
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from vit_jax.data.tokenizer_json import is_json, model_in
from vit_jax.data.vocabularies import Vocabulary, damaged
from vit_jax.data.words import utf8

# GPT-2 and CLIP write each byte as one visible character: itself where it is one, else one from U+0100 on.
_VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTE_ORDER = (*_VISIBLE, *sorted(set(range(256)) - set(_VISIBLE)))
"""The bytes in the order of their ids in GPT-2 and CLIP."""
BYTE_OF = {chr(byte if at < len(_VISIBLE) else 256 + at - len(_VISIBLE)): byte for at, byte in enumerate(BYTE_ORDER)}
"""The byte that a character stands for, in the files of GPT-2 and CLIP."""


class BytePairs:
    """Joins the bytes of words.

    Args:
        starts: the token of each byte, 0 to 255.
        merges: the rank of each pair of tokens; of those in a word, the one of lowest rank is joined first.
        joined: the token that the pair of each rank becomes.
        ends: the token of each byte where it ends a word, for vocabularies in which those differ.
    """

    def __init__(
        self,
        starts: Sequence[int],
        merges: Mapping[tuple[int, int], int],
        joined: Sequence[int],
        ends: Sequence[int] | None = None,
    ):
        self._starts, self._ends = starts, starts if ends is None else ends
        self._ranks, self._joined = merges, joined

    def tokens(self, word: str) -> tuple[int, ...]:
        """The tokens of a word that is not empty, in time n·log(n) of its length.

        Raises:
            UserError: when it holds half a surrogate pair.
        """
        *first, last = utf8(word)
        ids, ranks = [*(self._starts[byte] for byte in first), self._ends[last]], self._ranks
        end = len(ids)
        before, after = list(range(-1, end - 1)), list(range(1, end + 1))
        heap = [(ranks[pair], at) for at, pair in enumerate(itertools.pairwise(ids)) if pair in ranks]
        heapq.heapify(heap)
        while heap:
            rank, at = heapq.heappop(heap)
            right = after[at]
            # Since this pair was found, either side of it may have been joined to another.
            if ids[at] < 0 or right == end or ranks.get((ids[at], ids[right])) != rank:
                continue
            ids[at], ids[right] = self._joined[rank], -1
            after[at] = after[right]
            if after[at] < end:
                before[after[at]] = at
                if (pair := (ids[at], ids[after[at]])) in ranks:
                    heapq.heappush(heap, (ranks[pair], at))
            if before[at] >= 0 and (pair := (ids[before[at]], ids[at])) in ranks:
                heapq.heappush(heap, (ranks[pair], before[at]))
        return tuple(i for i in ids if i >= 0)


def continues(pieces: Sequence[bytes]) -> Bool[np.ndarray, " V"]:
    """Whether each piece goes on a word, judged by its first byte: a letter or a digit with no space before it."""
    return np.array([piece[:1].isalnum() or piece[:1] >= b"\x80" for piece in pieces])


def read_pairs(merges: Vocabulary, end: str = "", most: int | None = None) -> list[tuple[str, str]]:
    """The lines of a file of merges, each a pair of what stands there already.

    Args:
        merges: the file; a first line with "#version" is passed over. Or a tokenizer.json, which has them in it.
        end: what is appended to a word's last byte.
        most: pairs to read; the rest of the file is passed over.

    Raises:
        UserError: names the line that is no pair, or joins what no line before it made.
    """
    known = {*BYTE_OF, *(symbol + end for symbol in BYTE_OF)}
    pairs: list[tuple[str, str]] = []
    lines = model_in(merges, "BPE")[1] if is_json(merges) else merges.text().splitlines()
    for number, line in enumerate(lines, 1):
        if len(pairs) == most:
            break
        if not line or (number == 1 and "#version" in line):
            continue
        left, _, right = line.partition(" ")
        if left not in known or right not in known:
            raise damaged(merges.name, f"line {number} joins {line!r}, and nothing before it made these")
        if left + right in known:
            raise damaged(merges.name, f"line {number} makes {left + right!r} a second time")
        known.add(left + right)
        pairs.append((left, right))
    return pairs
