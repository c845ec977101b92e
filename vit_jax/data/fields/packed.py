"""Documents packed into windows of one length, for language models: no padding but at the very end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int32

from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.source import Source
from vit_jax.data.text import padded_ids, readable, token_ids, tokenizer_of
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.data.windows import Window, Windows
from vit_jax.errors import UserError
from vit_jax.ranges import Count


@dataclass(frozen=True)
class Packed(Field):
    """int32 [length], with bool NAME_mask [length], which tokens are not padding, and int32 NAME_documents [length],
    the number of each token's document in its window, from 0; see `vit_jax.data.windows.Windows` for what is where.
    """

    tokenizer: Tokenizer
    section: Mapping[str, Any] = field(hash=False)
    length: int
    is_text: ClassVar[bool] = True

    def spec(self, name: str) -> dict[str, Spec]:
        return {
            name: Spec((self.length,), "int32", self.tokenizer.vocab_size),
            f"{name}_mask": Spec((self.length,), "bool", 2),
            f"{name}_documents": Spec((self.length,), "int32"),
        }

    def arranged(self, name: str, source: Source) -> Windows:
        return Windows(source, name, self.tokenizer, self.length)

    def read(self, raw: Any, where: str, plane: Plane | None) -> Window:
        """A window; of a text by itself one with an end token before and after it, cut where it is longer."""
        if isinstance(raw, Window):
            return raw
        ids, end = token_ids(self.tokenizer, raw, where), [self.tokenizer.eos_id]
        ids = np.concatenate([end, ids[: self.length - 2], end]).astype(np.int32)
        return Window(ids, (np.arange(len(ids)) == len(ids) - 1).astype(np.int32))

    def batched(self, name: str, value: Window) -> dict[str, Any]:
        return {
            name: padded_ids(value.ids, self.length, self.tokenizer.pad_id),
            f"{name}_mask": np.arange(self.length) < len(value.ids),
            f"{name}_documents": padded_ids(value.documents, self.length, value.documents[-1]),
        }

    def text(self, ids: Int32[np.ndarray, " L"]) -> str:
        """The text of one row of a batch."""
        return readable(self.tokenizer, ids)

    def caption(self, name: str, row: Mapping[str, Any]) -> str:
        """The documents' parts, with a bar between them."""
        ids, documents = row[name], row[f"{name}_documents"]
        parts = (self.text(ids[documents == number]) for number in range(documents[-1] + 1))
        return " | ".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        return {"name": "packed", "tokenizer": dict(self.section), "length": self.length}


def build(*, data: Context, length: Count, tokenizer: str | Mapping[str, Any] = "bytes") -> Packed:
    """Windows of the documents of a source, each read once when a run starts.

    Args:
        length: of a window in tokens.
        tokenizer: the name of a module in `vit_jax.data.tokenizers`, or a section with it and its arguments.
    """
    made, section = tokenizer_of(tokenizer)
    if made.eos_id is None:
        raise UserError(f"The tokenizer {section['name']!r} has no token that ends a text", "Pack with one that has")
    if length < 2:
        raise UserError(f"In a window of {length} there is nothing to predict", "Raise its length")
    return Packed(made, section, length)
