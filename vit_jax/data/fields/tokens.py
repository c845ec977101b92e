"""Text, or numbers in a row, as tokens of a fixed length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.naming import build_named
from vit_jax.ranges import Count


@dataclass(frozen=True)
class Tokens(Field):
    """int32 [length]: the start, the text, the end, and padding; see `build`."""

    tokenizer: Tokenizer
    section: Mapping[str, Any] = field(hash=False)
    length: int
    bos: bool
    eos: bool
    long: str

    def spec(self, name: str) -> dict[str, Spec]:
        return {name: Spec((self.length,), "int32", self.tokenizer.vocab_size)}

    def read(self, raw: Any, where: str, plane: Plane | None) -> Int32[np.ndarray, " L"]:
        """Tokens of text, UTF-8 bytes or a list of token ids, padded."""
        ids = self._ids(raw, where)
        room = self.length - self.bos - self.eos
        if len(ids) > room and self.long == "fail":
            raise UserError(
                f"{where} has {len(ids)} tokens, more than the {room} that the field holds",
                "Raise its length, or set long='cut'",
            )
        ids = [self.tokenizer.bos_id] * self.bos + list(ids[:room]) + [self.tokenizer.eos_id] * self.eos
        return np.array(ids + [self.tokenizer.pad_id] * (self.length - len(ids)), np.int32)

    def _ids(self, raw: Any, where: str) -> Sequence[int]:
        if isinstance(raw, bytes):
            try:
                raw = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{where} has bytes that are not UTF-8", "Save it as UTF-8") from error
        if isinstance(raw, str):
            return self.tokenizer.encode(raw)
        values = np.asarray(raw) if isinstance(raw, (list, tuple, np.ndarray)) else None
        if values is None or values.ndim != 1 or (values.size and not np.issubdtype(values.dtype, np.integer)):
            raise UserError(f"{where} is neither a text nor a list of tokens", "Give one of them")
        if values.size and not 0 <= values.min() <= values.max() < self.tokenizer.vocab_size:
            raise UserError(
                f"{where} has tokens from {values.min()} to {values.max()}, of {self.tokenizer.vocab_size} that exist",
                "Use the tokenizer that they were made with",
            )
        return values.tolist()

    def text(self, ids: Int32[np.ndarray, " L"]) -> str:
        """The text of one row of a batch."""
        special = {self.tokenizer.pad_id, self.tokenizer.bos_id, self.tokenizer.eos_id}
        return self.tokenizer.decode([i for i in np.asarray(ids).tolist() if i not in special])

    def caption(self, name: str, row: Mapping[str, Any]) -> str:
        return self.text(row[name])

    def to_json(self) -> dict[str, Any]:
        own = {"length": self.length, "bos": self.bos, "eos": self.eos, "long": self.long}
        return {"name": "tokens", "tokenizer": dict(self.section), **own}


def build(
    *,
    data: Context,
    length: Count,
    tokenizer: str | Mapping[str, Any] = "bytes",
    bos: bool = True,
    eos: bool = True,
    long: Literal["fail", "cut"] = "fail",
) -> Tokens:
    """Tokens of a text.

    Args:
        length: of each row, with the tokens of start and end.
        tokenizer: the name of a module in `vit_jax.data.tokenizers`, or a section with it and its arguments.
        bos, eos: whether a token says where the text starts, and where it ends.
        long: what happens to a longer text: "fail", or "cut" its end.
    """
    section = {"name": tokenizer} if isinstance(tokenizer, str) else dict(tokenizer)
    if length <= bos + eos:
        raise UserError(f"A length of {length} leaves no room for a text", "Raise it")
    return Tokens(build_named("tokenizer", section, "config.data.fields.tokenizer"), section, length, bos, eos, long)
