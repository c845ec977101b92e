"""Text to whole numbers and back: one module each, with `build(**kwargs) -> Tokenizer`."""

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """A frozen dataclass; picklable, for worker processes.

    `encode` gives no special tokens: a field puts the start, the end and the padding around.

    One whose tokens are bytes of the text, one after the other, also has `byte_counts() -> int32 [V]`: how many each
    stands for, 0 for special ones. Losses can then be given in bits per byte.
    """

    vocab_size: int
    pad_id: int
    bos_id: int
    eos_id: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...
