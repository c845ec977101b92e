"""Pairs of stretches of documents, the second of which follows the first or comes from another document: BERT's
pretraining (Devlin et al., arXiv:1810.04805, section A.2)."""

import re
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

from vit_jax.data.seeds import derived_seed
from vit_jax.data.source import Source
from vit_jax.data.text import as_text, kept_lengths, token_ids
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.data.windows import texts_of
from vit_jax.errors import UserError

# Where a sentence ends in running text: after its mark and what closes it, before what may begin another. After "Mr."
# too: a pair does not need better.
_END = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["'’”)\]]))\s+(?=["'‘“(\[]*[A-Z0-9À-ÖØ-Þ])""")


class Pair(NamedTuple):
    """Tokens of two stretches of sentences, without special ones."""

    first: Int32[np.ndarray, " n"]
    second: Int32[np.ndarray, " m"]


class SentencePairs:
    """Examples of two stretches of sentences, as token ids under `name`, and "label": 0 for the next, 1 for a random
    one.

    Example i starts with sentence i % n of the n that another follows in their document. As in BERT's code, sentences
    are taken from there until they fill the room, or for a share of the examples a shorter random one; A is a random
    number of them, and B is the rest of them or, in half of the examples, sentences of another document. What does not
    fit is taken from the longer one, at its start or end at random. All of it is a function of the seed and i.

    In BERT's code stretches follow one another and each is used once, here one starts with every sentence; and there a
    stretch of one sentence always gets a random B, here none has fewer than two, so that a half are exactly half.

    Args:
        source: of examples with a text under `name`. Read once, and kept as tokens.
        name: of the field.
        room: tokens of both together, without special ones.
        sentences: of a text: its "lines", or what ends with a "stop", question or exclamation mark.
        copies: how often each sentence starts an example, each time with other draws.
        short: share of the examples that are of a random length from 2 tokens up.
        seed: of all draws.

    Raises:
        UserError: for fewer than two documents with sentences, or none of two.
    """

    in_memory = True
    label_names = ("next", "random")

    def __init__(
        self,
        source: Source,
        name: str,
        tokenizer: Tokenizer,
        *,
        room: int,
        sentences: Literal["lines", "stops"],
        copies: int,
        short: float,
        seed: int,
    ):
        self._name, self._room, self._copies, self._short = name, room, copies, short
        self._seed = derived_seed(seed, 7)
        self.field_names = frozenset({name, "label"})
        self.remarks = tuple(getattr(source, "remarks", ()))
        ids: list[np.ndarray] = []
        counts: list[int] = []
        for where, text in texts_of(source, name):
            if not isinstance(text, (str, bytes)):
                raise UserError(f"{where} is no text that has sentences", "Give texts, not tokens")
            found = [
                token_ids(tokenizer, sentence, where) for sentence in sentences_of(as_text(text, where), sentences)
            ]
            found = [sentence for sentence in found if len(sentence)]
            if found:
                counts.append(len(found))
                ids += found
        if len(counts) < 2 or max(counts) < 2:
            raise UserError(
                f"The source has {len(counts)} documents with {len(ids)} sentences, and a pair needs two sentences of"
                " one document and one of another",
                "Give more documents, or say how their sentences are told apart: sentences='lines' or 'stops'",
            )
        dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
        self._ids = np.concatenate(ids).astype(dtype)
        self._ends = np.cumsum([len(sentence) for sentence in ids])  # of each sentence
        self._last = np.cumsum(counts)  # the sentence after the last of each document
        self._starts = np.setdiff1d(np.arange(len(ids)), self._last - 1, assume_unique=True)

    def __len__(self) -> int:
        return self._copies * len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self._seed, index))
        first = int(self._starts[index % len(self._starts)])
        wanted = self._room if rng.random() >= self._short else int(rng.integers(2, self._room + 1))
        document = int(np.searchsorted(self._last, first, side="right"))
        # At least two sentences, so that each has a next one.
        end = max(self._filling(first, document, wanted), first + 2)
        split = int(rng.integers(first + 1, end))
        label = int(rng.random() >= 0.5)
        second, second_end = split, end
        if label:
            other = (document + int(rng.integers(1, len(self._last)))) % len(self._last)
            low = int(self._last[other - 1]) if other else 0
            second = int(rng.integers(low, self._last[other]))
            left = wanted - len(self._tokens(first, split))
            second_end = max(self._filling(second, other, left), second + 1)
        texts = self._tokens(first, split), self._tokens(second, second_end)
        kept = kept_lengths(*map(len, texts), wanted)
        pair = Pair(*(_trimmed(ids, count, rng) for ids, count in zip(texts, kept, strict=True)))
        return {self._name: pair, "label": label}

    def _filling(self, first: int, document: int, wanted: int) -> int:
        """The sentence after those of a document that from `first` on fill so many tokens, or are all that are left."""
        start = self._ends[first - 1] if first else 0
        return min(int(np.searchsorted(self._ends, start + wanted, side="left")) + 1, int(self._last[document]))

    def _tokens(self, first: int, end: int) -> Int32[np.ndarray, " n"]:
        """Of the sentences `first` to before `end`."""
        return self._ids[self._ends[first - 1] if first else 0 : self._ends[end - 1]].astype(np.int32)


def sentences_of(text: str, how: Literal["lines", "stops"]) -> list[str]:
    """The sentences of a text: its lines, or what ends with a full stop, question or exclamation mark."""
    parts = text.split("\n") if how == "lines" else _END.split(" ".join(text.split()))
    return [part.strip() for part in parts if part.strip()]


def _trimmed(ids: Int32[np.ndarray, " n"], count: int, rng: np.random.Generator) -> Int32[np.ndarray, " count"]:
    """`count` of the tokens: each that is too many goes from the start or the end, with equal odds."""
    front = int(rng.binomial(len(ids) - count, 0.5))
    return ids[front : front + count]
