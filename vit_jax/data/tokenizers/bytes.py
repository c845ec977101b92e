"""The bytes of a text in UTF-8, as in ByT5 (arXiv:2105.13626): no vocabulary to learn or to fetch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int32

from vit_jax.data.words import joined, utf8

_FIRST = 3  # the special tokens come before the bytes
_PIECES = (b"",) * _FIRST + tuple(bytes([byte]) for byte in range(256))


@dataclass(frozen=True)
class Bytes:
    """256 bytes after padding, start and end."""

    pad_id: ClassVar[int] = 0
    bos_id: ClassVar[int] = 1
    eos_id: ClassVar[int] = 2
    cls_id: ClassVar[None] = None
    sep_id: ClassVar[None] = None
    mask_id: ClassVar[None] = None
    unk_id: ClassVar[None] = None
    vocab_size: ClassVar[int] = _FIRST + 256

    def encode(self, text: str) -> list[int]:
        return [_FIRST + byte for byte in utf8(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text; what is no UTF-8, as in a text that was cut, becomes the replacement character."""
        return joined(_PIECES, ids).decode("utf-8", "replace")

    def byte_counts(self) -> Int32[np.ndarray, " V"]:
        """How many bytes of a text each token stands for."""
        return np.array([0] * _FIRST + [1] * 256, np.int32)


def build() -> Bytes:
    return Bytes()
