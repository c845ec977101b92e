"""One text or two as a row of tokens, as BERT reads them: [CLS] A [SEP], or [CLS] A [SEP] B [SEP]."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int32

from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.text import kept_lengths, padded_ids, readable, token_ids, tokenizer_of
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.ranges import Count


@dataclass(frozen=True)
class TokenPair(Field):
    """int32 [length], with bool NAME_mask [length], which tokens are not padding, and int32 NAME_segments [length]: 0
    for the first text with the tokens around it, 1 for the second with its end, 0 for padding.

    With long="cut", int32 NAME_cut [] is 1 where the texts were longer; see `build`.
    """

    tokenizer: Tokenizer
    section: Mapping[str, Any] = field(hash=False)
    length: int
    long: str
    is_text: ClassVar[bool] = True

    def spec(self, name: str) -> dict[str, Spec]:
        found = {
            name: Spec((self.length,), "int32", self.tokenizer.vocab_size),
            f"{name}_mask": Spec((self.length,), "bool", 2),
            f"{name}_segments": Spec((self.length,), "int32", 2),
        }
        return found | ({f"{name}_cut": Spec((), "int32")} if self.long == "cut" else {})

    def read(self, raw: Any, where: str, plane: Plane | None) -> tuple[Int32[np.ndarray, " n"], ...]:
        """The tokens of one text or two, without special ones: each a text, its UTF-8 bytes or its token ids."""
        found = self._texts(raw, where)
        total, room = sum(map(len, found)), self.length - 1 - len(found)
        if total > room and self.long == "fail":
            raise UserError(
                f"{where} has {total} tokens, more than the {room} that the field holds",
                "Raise its length, or set long='cut'",
            )
        return found

    def _texts(self, raw: Any, where: str) -> tuple[Int32[np.ndarray, " n"], ...]:
        several = isinstance(raw, (list, tuple, np.ndarray)) and any(
            not isinstance(one, (int, np.integer)) for one in raw
        )
        texts = tuple(raw) if several else (raw,)
        if len(texts) > 2:
            raise UserError(f"{where} has {len(texts)} texts, where one or two are taken", "Leave the others out")
        found = tuple(token_ids(self.tokenizer, text, where) for text in texts)
        if not all(len(ids) for ids in found):
            raise UserError(f"{where} has an empty text", "Leave the example out")
        return found

    def batched(self, name: str, value: tuple[Int32[np.ndarray, " n"], ...]) -> dict[str, Any]:
        room = self.length - 1 - len(value)
        kept = kept_lengths(*map(len, value), room) if len(value) == 2 else (min(len(value[0]), room),)
        found = joined(name, [ids[:count] for ids, count in zip(value, kept, strict=True)], self.tokenizer, self.length)
        return found | ({f"{name}_cut": int(sum(map(len, value)) > room)} if self.long == "cut" else {})

    def caption(self, name: str, row: Mapping[str, Any]) -> str:
        real, segments = row[f"{name}_mask"], row[f"{name}_segments"]
        texts = (row[name][real & (segments == segment)] for segment in (0, 1))
        return " | ".join(readable(self.tokenizer, ids, *around(self.tokenizer)) for ids in texts if len(ids))

    def to_json(self) -> dict[str, Any]:
        return {"name": "token_pair", "tokenizer": dict(self.section), "length": self.length, "long": self.long}


def around(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens that stand before the first text and after each: [CLS] and [SEP], or start and end where a tokenizer
    has none."""
    start, end = getattr(tokenizer, "cls_id", None), getattr(tokenizer, "sep_id", None)
    return tokenizer.bos_id if start is None else start, tokenizer.eos_id if end is None else end


def checked(tokenizer: str | Mapping[str, Any], length: int) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a field of texts in pairs, and its section.

    Raises:
        UserError: for one without tokens to stand around them, and for a length without room.
    """
    made, section = tokenizer_of(tokenizer)
    if None in around(made):
        raise UserError(f"The tokenizer {section['name']!r} has no tokens that stand around texts", "Use one that has")
    if length < 5:
        raise UserError(f"A length of {length} leaves no room for two texts", "Raise it")
    return made, section


def joined(name: str, texts: list[Int32[np.ndarray, " n"]], tokenizer: Tokenizer, length: int) -> dict[str, Any]:
    """What a batch holds of one text or two that fit."""
    start, end = around(tokenizer)
    ids = np.concatenate([[start], *(part for text in texts for part in (text, [end]))])
    first = 2 + len(texts[0])
    at = np.arange(length)
    return {
        name: padded_ids(ids, length, tokenizer.pad_id),
        f"{name}_mask": at < len(ids),
        f"{name}_segments": ((at >= first) & (at < len(ids))).astype(np.int32),
    }


def build(
    *,
    data: Context,
    length: Count,
    tokenizer: str | Mapping[str, Any] = "wordpiece",
    long: Literal["fail", "cut"] = "cut",
) -> TokenPair:
    """One text, or two, of each example; a source gives two as a list.

    Args:
        length: of each row, with the tokens around the texts.
        tokenizer: the name of a module in `vit_jax.data.tokenizers`, or a section with it and its arguments.
        long: what happens to texts that do not fit: "fail", or "cut" the end of the longer one first. The share of
            examples that were cut is logged as train/cut.
    """
    return TokenPair(*checked(tokenizer, length), length, long)
