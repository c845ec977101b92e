"""Text to whole numbers and back: one module each, with `build(**kwargs) -> Tokenizer`."""

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """A frozen dataclass; picklable, for worker processes.

    `encode` gives no special tokens, whatever the text says: a field puts the start, the end and the padding around. So
    nobody's caption ends another one by saying "<|endoftext|>".

    Special tokens may be the same (GPT-2 starts, ends and pads with one; BERT starts with `[CLS]` and ends with
    `[SEP]`), and padding may be an ordinary token too (CLIP's 0 is "!"), so that only a mask tells it apart.

    One whose tokens are bytes of the text, one after the other, also has `byte_counts() -> int32 [V]`: how many each
    stands for, 0 for special ones. Losses can then be given in bits per byte. One that cuts words into pieces has
    `continues`, bool [V]: whether each token goes on the word of the token before it, for masking whole words; or, of
    tokens that say where a word ends (CLIP's), `ends`, bool [V].

    One of several that cut texts differently and number the same pieces alike has `numbering`, which is equal for all
    of them: one matrix can embed what they give.

    One that is made of files has `to_json() -> dict`: arguments of its `build` with the files in them, which a
    checkpoint keeps (see `vit_jax.data.vocabularies.Vocabulary.to_json`).

    Args:
        pad_id: what fills a row.
        bos_id, eos_id: what starts and ends a text; None where there is none.
        cls_id, sep_id: what stands before a pair of texts, and after each of them; None where there is none.
        mask_id: what a masked token becomes; None where there is none.
        unk_id: what a text that the vocabulary cannot write becomes; None where it can write all.
    """

    vocab_size: int
    pad_id: int
    bos_id: int | None
    eos_id: int | None
    cls_id: int | None
    sep_id: int | None
    mask_id: int | None
    unk_id: int | None

    def encode(self, text: str) -> list[int]:
        """Raises a UserError for a text that is not one: with half a surrogate pair."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Raises a UserError for an id outside the vocabulary."""
        ...
