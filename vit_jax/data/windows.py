"""Documents joined and cut into windows of one length: how a language model reads a corpus."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from vit_jax.data.source import Source
from vit_jax.data.text import token_ids
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError


class Window(NamedTuple):
    """Tokens of a window, at most its length, and of each the number of its document, from 0."""

    ids: Int32[np.ndarray, " n"]
    documents: Int32[np.ndarray, " n"]


class Windows:
    """All documents of a source as one row of tokens, an end token before each and after the last, in windows.

    A window starts with the last token of the one before it. So every token but the first end token is predicted from
    those before it exactly once, and a measure over all windows is one over the whole corpus. The end token that stands
    between two documents counts to the second: it is all that the second's first word is predicted from where
    attention does not look over the border, as in the samples of such a model, which start from an end token.

    Args:
        source: of examples with a text, or its token ids, under `name`. Read once, and kept as tokens.
        name: of the field.
        length: tokens of a window, 2 or more. The last one may have fewer.

    Raises:
        UserError: for a source without such a text, and without documents.
    """

    in_memory = True
    label_names = ()

    def __init__(self, source: Source, name: str, tokenizer: Tokenizer, length: int):
        self._name, self._length = name, length
        self.field_names = frozenset({name})
        self.remarks = tuple(getattr(source, "remarks", ()))
        dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32  # half the memory
        end = np.array([tokenizer.eos_id], dtype)
        parts: list[np.ndarray] = []
        for where, text in texts_of(source, name):
            parts += [end, token_ids(tokenizer, text, where).astype(dtype)]
        self._ids = np.concatenate([*parts, end])
        lengths = np.array([1 + len(ids) for ids in parts[1::2]])
        self._starts = np.concatenate([[0], np.cumsum(lengths)])

    @property
    def num_tokens(self) -> int:
        """Of all documents, with the end tokens between and around them."""
        return len(self._ids)

    def __len__(self) -> int:
        return -(-(len(self._ids) - 1) // (self._length - 1))

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = index * (self._length - 1)
        ids = self._ids[start : start + self._length].astype(np.int32)
        documents = np.searchsorted(self._starts, np.arange(start, start + len(ids)), side="right")
        return {self._name: Window(ids, (documents - documents[0]).astype(np.int32))}


def texts_of(source: Source, name: str) -> list[tuple[str, Any]]:
    """Each example's place, for errors, and its value of one field.

    Raises:
        UserError: for a source that has none.
    """
    found = []
    for index in range(len(source)):
        example = source[index]
        if name not in example:
            there = ", ".join(sorted(set(example) - {"path"})) or "nothing"
            raise UserError(f"The source gives no field {name!r} but {there}", "Have the source read it")
        found.append((f"{example.get('path') or f'Example {index}'}, field {name!r},", example[name]))
    if not found:
        raise UserError("The source has no documents", "Check its paths")
    return found
