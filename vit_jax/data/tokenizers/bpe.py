"""Pairs of bytes that `vit_jax prepare tokenizer` learned from somebody's texts, joined within words as GPT-2's are."""

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from vit_jax.data.byte_level import WORDS, ByteLevel
from vit_jax.data.byte_pairs import BytePairs
from vit_jax.data.learn_pairs import counted, learn_pairs
from vit_jax.data.vocabularies import File, Vocabulary, damaged, read_vocabulary
from vit_jax.data.words import Remembered, utf8
from vit_jax.errors import UserError

_FORMAT = 1
_SPECIAL = 4
_BYTES = range(_SPECIAL, _SPECIAL + 256)


@dataclass(frozen=True)
class BPE(ByteLevel):
    """Padding, start, end and mask, then the 256 bytes, then the pairs in the order in which they were learned.

    The start also stands before a pair of texts, and the end after each of them, as BERT's `[CLS]` and `[SEP]`.

    Args:
        pairs: JSON: `{"tokenizer": "bpe", "format": 1, "pairs": [[left, right], ...]}`, the ids of two tokens each.
    """

    pairs: Vocabulary

    pad_id: ClassVar[int] = 0
    bos_id: ClassVar[int] = 1
    eos_id: ClassVar[int] = 2
    mask_id: ClassVar[int] = 3
    cls_id: ClassVar[int] = bos_id
    sep_id: ClassVar[int] = eos_id
    unk_id: ClassVar[None] = None

    def to_json(self) -> dict[str, Any]:
        return {"path": self.pairs.to_json()}

    @functools.cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        try:
            content = json.loads(self.pairs.text())
        except (ValueError, RecursionError) as error:
            raise damaged(self.pairs.name, "it is not JSON") from error
        if not isinstance(content, dict) or content.get("tokenizer") != "bpe":
            raise damaged(self.pairs.name, "it does not say that it is a tokenizer of the kind bpe")
        if content.get("format") != _FORMAT:
            raise damaged(self.pairs.name, f"its format is {content.get('format')!r}, and {_FORMAT} is known")
        return self._checked(content.get("pairs"))

    def _checked(self, pairs: Any) -> list[tuple[int, int]]:
        if not isinstance(pairs, list):
            raise damaged(self.pairs.name, "its 'pairs' are no list")
        seen: set[tuple[int, int]] = set()
        for token, pair in enumerate(pairs, _BYTES.stop):
            fits = isinstance(pair, list) and len(pair) == 2
            if not fits or not all(type(i) is int and _SPECIAL <= i < token for i in pair):
                raise damaged(self.pairs.name, f"token {token} is made of {pair!r}, not of two tokens before it")
            if tuple(pair) in seen:
                raise damaged(self.pairs.name, f"{pair!r} are joined twice")
            seen.add(tuple(pair))
        return [tuple(pair) for pair in pairs]

    @functools.cached_property
    def _pieces(self) -> list[bytes]:
        pieces = [b""] * _SPECIAL + [bytes([byte]) for byte in range(256)]
        for left, right in self._pairs:
            pieces.append(pieces[left] + pieces[right])
        return pieces

    @functools.cached_property
    def _words(self) -> Remembered:
        ranks = {pair: rank for rank, pair in enumerate(self._pairs)}
        return Remembered(BytePairs(_BYTES, ranks, range(_BYTES.stop, self.vocab_size)).tokens)


def trained(texts: Iterable[str], size: int, learned: Callable[[], object] = lambda: None) -> str:
    """The JSON of a tokenizer of `size` tokens, which is the same for the same texts.

    Args:
        learned: is called after each pair.

    Raises:
        UserError: when the size is below that of bytes and special tokens, or the texts have too few pairs.
    """
    if size < _BYTES.stop:
        raise UserError(f"A vocabulary of {size} is smaller than the {_BYTES.stop} bytes and marks", "Ask for more")
    words = counted(texts, WORDS.findall)
    spelled = {tuple(_SPECIAL + byte for byte in utf8(word)): count for word, count in sorted(words.items())}
    pairs = learn_pairs(spelled, _BYTES.stop, size - _BYTES.stop, learned)
    if len(pairs) < size - _BYTES.stop:
        most = _BYTES.stop + len(pairs)
        raise UserError(
            f"The texts have pairs for {most} tokens, and {size} are asked for", "Give more text, or ask for fewer"
        )
    return json.dumps({"tokenizer": "bpe", "format": _FORMAT, "pairs": pairs}) + "\n"


def build(*, path: File) -> BPE:
    """Pairs of bytes.

    Args:
        path: what `vit_jax prepare tokenizer` wrote.
    """
    tokenizer = BPE(read_vocabulary(path))
    tokenizer._pairs  # noqa: B018  a damaged file is found here, not in the middle of an epoch
    return tokenizer
