"""What BERT is pretrained on: two stretches of sentences, of which the second follows the first or does not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from vit_jax.data.field import Context, Plane
from vit_jax.data.fields.token_pair import TokenPair, checked
from vit_jax.data.sentence_pairs import Pair
from vit_jax.data.sentence_pairs import SentencePairs as Pairs
from vit_jax.data.source import Source
from vit_jax.ranges import Count, Natural, Share


@dataclass(frozen=True)
class SentencePairs(TokenPair):
    """A `token_pair` of sentences of a source of documents, with "label": 0 for the next ones, 1 for random ones."""

    sentences: str
    copies: int
    short: float
    seed: int

    def arranged(self, name: str, source: Source) -> Pairs:
        return Pairs(
            source,
            name,
            self.tokenizer,
            room=self.length - 3,
            sentences=self.sentences,
            copies=self.copies,
            short=self.short,
            seed=self.seed,
        )

    def read(self, raw: Any, where: str, plane: Plane | None) -> tuple[Int32[np.ndarray, " n"], ...]:
        """The tokens of a pair; those of a text by itself, or of two, are cut where they are longer."""
        return raw if isinstance(raw, Pair) else self._texts(raw, where)

    def to_json(self) -> dict[str, Any]:
        own = {"sentences": self.sentences, "copies": self.copies, "short": self.short, "seed": self.seed}
        return {"name": "sentence_pairs", "tokenizer": dict(self.section), "length": self.length, **own}


def build(
    *,
    data: Context,
    length: Count,
    tokenizer: str | Mapping[str, Any] = "wordpiece",
    sentences: Literal["lines", "stops"] = "lines",
    copies: Count = 10,
    short: Share = 0.1,
    seed: Natural = 0,
) -> SentencePairs:
    """Pairs of a source of documents, each read once when a run starts; see `vit_jax.data.sentence_pairs`.

    With the field `label` of the kind `classes` a batch also has which pairs are of the next sentences.

    Args:
        length: of each row, with the tokens around the two.
        tokenizer: the name of a module in `vit_jax.data.tokenizers`, or a section with it and its arguments.
        sentences: of a document: its "lines", or in running text what ends with a "stop", question or exclamation mark.
        copies: how many pairs start with each sentence (`dupe_factor` of BERT's code).
        short: share of pairs that are shorter than they could be (`short_seq_prob`).
        seed: of the pairs, which are the same in every epoch.
    """
    return SentencePairs(*checked(tokenizer, length), length, "fail", sentences, copies, short, seed)
