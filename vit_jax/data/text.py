"""From what a source gives as a text to token ids: what the kinds of text fields have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer

from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.naming import build_named


def as_text(raw: str | bytes, where: str) -> str:
    """A text, or its bytes in UTF-8.

    Raises:
        UserError: for bytes that are not UTF-8.
    """
    if isinstance(raw, str):
        return raw
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} has bytes that are not UTF-8", "Save it as UTF-8") from error


def token_ids(tokenizer: Tokenizer, raw: Any, where: str) -> Int32[np.ndarray, " n"]:
    """The tokens of a text, without special ones: of str, of UTF-8 bytes, or of what are token ids already.

    Raises:
        UserError: for anything else, and for ids that the tokenizer does not have.
    """
    if isinstance(raw, (str, bytes)):
        return np.array(tokenizer.encode(as_text(raw, where)), np.int32)
    values = np.asarray(raw) if isinstance(raw, (list, tuple, np.ndarray)) and not several_texts(raw) else None
    if values is None or values.ndim != 1 or (values.size and not np.issubdtype(values.dtype, np.integer)):
        raise UserError(f"{where} is neither a text nor a list of tokens", "Give one of them")
    return checked_ids(tokenizer, values, where)


def checked_ids(tokenizer: Tokenizer, values: Integer[np.ndarray, " n"], where: str) -> Int32[np.ndarray, " n"]:
    """Token ids that somebody else made.

    Raises:
        UserError: for one that the tokenizer does not have.
    """
    if values.size and not 0 <= values.min() <= values.max() < tokenizer.vocab_size:
        raise UserError(
            f"{where} has tokens from {values.min()} to {values.max()}, of {tokenizer.vocab_size} that exist",
            "Use the tokenizer that they were made with",
        )
    return values.astype(np.int32)


def several_texts(raw: Any) -> bool:
    """Whether it is a list of texts rather than a text or its tokens. An empty list is one of tokens."""
    if isinstance(raw, np.ndarray):
        return (
            raw.ndim == 1
            and raw.size > 0
            and raw.dtype.kind in "SUO"
            and all(isinstance(one, (str, bytes)) for one in raw)
        )
    return isinstance(raw, (list, tuple)) and bool(raw) and all(isinstance(one, (str, bytes)) for one in raw)


def padded_ids(ids: Int32[np.ndarray, " n"], length: int, pad_id: int) -> Int32[np.ndarray, " length"]:
    """The tokens, at most `length` of them, and padding."""
    found = np.full(length, pad_id, np.int32)
    found[: len(ids)] = ids
    return found


def kept_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens two texts keep where one is taken from the longer one, the second of equals, until they fit
    (`_truncate_seq_pair` of BERT's code)."""
    if first + second <= room:
        return first, second
    small = room // 2
    if first <= room - small:
        return first, room - first
    return (room - second, second) if second <= small else (room - small, small)


def tokenizer_of(tokenizer: str | Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a field's section, and the section as a checkpoint keeps it: in full, with its files.

    Args:
        tokenizer: the name of a module in `vit_jax.data.tokenizers`, or a section with it and its arguments.
    """
    section = {"name": tokenizer} if isinstance(tokenizer, str) else dict(tokenizer)
    built = build_named("tokenizer", section, "config.data.fields.tokenizer")
    stored = getattr(built, "to_json", None)
    return built, section if stored is None else {**section, **stored()}


def readable(tokenizer: Tokenizer, ids: Sequence[int] | Int32[np.ndarray, " n"], *special: int) -> str:
    """The text of a row of tokens, without padding, start, end and other `special` tokens. A token that also pads, as
    "!" does in CLIP's rows, counts as padding at the end alone."""
    values = np.asarray(ids)
    real = np.flatnonzero(values != tokenizer.pad_id)
    values = values[: real[-1] + 1] if real.size else values[:0]
    special = (tokenizer.bos_id, tokenizer.eos_id, *special)
    return tokenizer.decode([i for i in values.tolist() if i not in special])
