"""Text, or numbers in a row, as tokens of a fixed length."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int32

from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.text import padded_ids, readable, several_texts, token_ids, tokenizer_of
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.ranges import Count


@dataclass(frozen=True)
class Tokens(Field):
    """int32 [length]: the start, the text, the end, and padding; bool NAME_mask [length] says which are not padding.

    With long="cut", int32 NAME_cut [] is 1 where the text was longer: its end token is kept; see `build`.
    """

    tokenizer: Tokenizer
    section: Mapping[str, Any] = field(hash=False)
    length: int
    bos: bool
    eos: bool
    long: str
    pad: str = "own"

    is_text: ClassVar[bool] = True

    def spec(self, name: str) -> dict[str, Spec]:
        found = {
            name: Spec((self.length,), "int32", self.tokenizer.vocab_size),
            f"{name}_mask": Spec((self.length,), "bool", 2),
        }
        return found | ({f"{name}_cut": Spec((), "int32")} if self.long == "cut" else {})

    def choose(self, raw: Any, where: str, rng: np.random.Generator | None) -> Any:
        """One of several texts, as an image has several captions: in training any of them, in evaluation the first."""
        if not several_texts(raw):
            return raw
        return raw[0 if rng is None else int(rng.integers(len(raw)))]

    def read(self, raw: Any, where: str, plane: Plane | None) -> Int32[np.ndarray, " n"]:
        """Tokens of text, UTF-8 bytes or a list of token ids, with the start and the end."""
        ids = token_ids(self.tokenizer, raw, where)
        room = self.length - self.bos - self.eos
        if len(ids) > room and self.long == "fail":
            raise UserError(
                f"{where} has {len(ids)} tokens, more than the {room} that the field holds",
                "Raise its length, or set long='cut'",
            )
        if not len(ids) and not self.bos and not self.eos:
            raise UserError(f"{where} is an empty text", "Leave it out, or set bos or eos")
        start, end = [self.tokenizer.bos_id] * self.bos, [self.tokenizer.eos_id] * self.eos
        return np.concatenate([start, ids, end]).astype(np.int32)

    def batched(self, name: str, value: Int32[np.ndarray, " n"]) -> dict[str, Any]:
        kept = value
        if len(value) > self.length:
            kept = np.concatenate([value[: self.length - self.eos], value[len(value) - self.eos :]])
        found = {
            name: padded_ids(kept, self.length, getattr(self.tokenizer, "eos_id" if self.pad == "end" else "pad_id")),
            f"{name}_mask": np.arange(self.length) < len(kept),
        }
        return found | ({f"{name}_cut": int(len(value) > self.length)} if self.long == "cut" else {})

    def text(self, ids: Int32[np.ndarray, " L"]) -> str:
        """The text of one row of a batch."""
        return readable(self.tokenizer, ids)

    def caption(self, name: str, row: Mapping[str, Any]) -> str:
        return self.text(row[name])

    def to_json(self) -> dict[str, Any]:
        own = {"length": self.length, "bos": self.bos, "eos": self.eos, "long": self.long}
        own |= {"pad": self.pad} if self.pad != "own" else {}  # as it was stored before there was another
        return {"name": "tokens", "tokenizer": dict(self.section), **own}


def build(
    *,
    data: Context,
    length: Count,
    tokenizer: str | Mapping[str, Any] = "bytes",
    bos: bool = True,
    eos: bool = True,
    long: Literal["fail", "cut"] = "fail",
    pad: Literal["own", "end"] = "own",
) -> Tokens:
    """Tokens of a text, or of one of several.

    Args:
        length: of each row, with the tokens of start and end.
        tokenizer: the name of a module in `vit_jax.data.tokenizers`, or a section with it and its arguments.
        bos, eos: whether a token says where the text starts, and where it ends.
        long: what happens to a longer text: "fail", or "cut" its end. The share of cut texts is logged as train/cut.
        pad: what fills a row: the tokenizer's own padding, or its "end" token again, as Stable Diffusion's first models
            read it, which see what comes after the end.
    """
    made, section = tokenizer_of(tokenizer)
    for name, wanted in (("bos", bos), ("eos", eos)):
        if wanted and getattr(made, f"{name}_id") is None:
            which = "starts" if name == "bos" else "ends"
            raise UserError(f"The tokenizer {section['name']!r} has no token that {which} a text", f"Set {name}=False")
    if pad == "end" and made.eos_id is None:
        raise UserError(f"The tokenizer {section['name']!r} has no token that ends a text", "Set pad='own'")
    if length <= bos + eos:
        raise UserError(f"A length of {length} leaves no room for a text", "Raise it")
    return Tokens(made, section, length, bos, eos, long, pad)
