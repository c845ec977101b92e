"""Token ids written as numbers, for a model whose vocabulary is not there: "12 7 305"."""

from collections.abc import Sequence
from dataclasses import dataclass

from vit_jax.errors import UserError
from vit_jax.ranges import Count, Natural


@dataclass(frozen=True)
class Ids:
    """A text of numbers.

    Args:
        vocab_size: how many tokens the model knows.
        pad_id, bos_id, eos_id: of padding, start and end; where a model has none, its last token stands in.
    """

    vocab_size: int
    pad_id: int
    bos_id: int
    eos_id: int

    def encode(self, text: str) -> list[int]:
        """
        Raises:
            UserError: for what is not a number of a token.
        """
        ids = [int(word) if word.isascii() and word.isdigit() else -1 for word in text.split()]
        for word, number in zip(text.split(), ids, strict=True):
            if not 0 <= number < self.vocab_size:
                raise UserError(
                    f"{word[:40]!r} is not the number of a token: the vocabulary of this model is not known",
                    f"Write texts as numbers from 0 to {self.vocab_size - 1}, or put the tokenizer's files beside it",
                )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def build(
    *, vocab_size: Count, pad_id: Natural | None = None, bos_id: Natural | None = None, eos_id: Natural | None = None
) -> Ids:
    """See `Ids`.

    Raises:
        UserError: for a special token that the model does not know.
    """
    last = vocab_size - 1
    ids = [last if i is None else i for i in (pad_id, bos_id, eos_id)]
    if max(ids) > last:
        raise UserError(f"There is no token {max(ids)} of {vocab_size}", f"Give ids from 0 to {last}")
    return Ids(vocab_size, *ids)
