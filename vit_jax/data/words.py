"""Words that tokenizers met before are looked up, and their tables are left behind when they are sent to a worker."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vit_jax.errors import UserError

_LONGEST = 64  # characters of a word that is remembered; longer ones hardly come again
_MOST = 2**18  # words that are remembered; then all are forgotten, and the common ones are soon back


class Remembered(dict[str, Sequence[int]]):
    """The tokens of words, made on first sight: `remembered[word]`.

    A text of any kind is mostly words that came before, so that the time a tokenizer takes for a new one hardly counts.
    """

    def __init__(self, tokens_of: Callable[[str], Sequence[int]]):
        super().__init__()
        self._tokens_of = tokens_of

    def __missing__(self, word: str) -> Sequence[int]:
        tokens = self._tokens_of(word)
        if len(word) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[word] = tokens
        return tokens


class Derived:
    """A dataclass with cached properties, which are made anew where a copy of it is unpickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def utf8(text: str) -> bytes:
    """`text` in UTF-8.

    Raises:
        UserError: for half a surrogate pair, which is no character: JSON can hold it, UTF-8 cannot.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        raise UserError(
            f"The text holds U+{half:04X}, half of a surrogate pair, which UTF-8 cannot hold", "Leave it out"
        ) from error


def joined(pieces: Sequence[bytes], ids: Iterable[int]) -> bytes:
    """The pieces that ids stand for.

    Raises:
        UserError: for an id outside the vocabulary.
    """
    ids = list(ids)
    for i in ids:
        if not 0 <= i < len(pieces):
            raise outside(i, len(pieces))
    return b"".join([pieces[i] for i in ids])


def outside(token: int, size: int) -> UserError:
    return UserError(
        f"There is no token {token} in a vocabulary of {size}", "Use the tokenizer that the tokens were made with"
    )
