"""GPT-2's tokens: pairs of bytes joined within words (Radford et al. 2019, section 2.2)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vit_jax.data.byte_level import ByteLevel
from vit_jax.data.byte_pairs import BYTE_OF, BYTE_ORDER, BytePairs, read_pairs
from vit_jax.data.tokenizer_json import is_json, model_in
from vit_jax.data.vocabularies import File, Vocabulary, read_vocabulary, shipped
from vit_jax.data.words import Remembered
from vit_jax.errors import UserError


@dataclass(frozen=True)
class GPT2(ByteLevel):
    """50,257 tokens: the bytes, 50,000 pairs, and `<|endoftext|>`, which starts a text, ends it and pads it.

    "<|endoftext|>" in a text is written with ordinary tokens, as in OpenAI's code; transformers makes the one token of
    it, unless it is told `split_special_tokens=True`.
    """

    merges: Vocabulary

    @property
    def eos_id(self) -> int:
        return self.vocab_size - 1

    bos_id = pad_id = eos_id
    cls_id = sep_id = mask_id = unk_id = None

    def to_json(self) -> dict[str, Any]:
        return {"path": self.merges.to_json()}

    @functools.cached_property
    def _pairs(self) -> list[tuple[str, str]]:
        return read_pairs(self.merges)

    @functools.cached_property
    def _pieces(self) -> list[bytes]:
        names = [bytes([byte]) for byte in BYTE_ORDER]
        names += [bytes([BYTE_OF[c] for c in left + right]) for left, right in self._pairs]
        return [*names, b""]

    def check_numbers(self, numbers: Mapping[str, int], name: str) -> None:
        """Refuses a vocabulary in which the same tokens have other numbers, as RoBERTa's.

        Args:
            numbers: of the tokens by their names, as in a vocab.json.
            name: of the file.
        """
        for symbol, number in self._ids.items():
            if numbers.get(symbol) != number:
                raise UserError(
                    f"{name} gives {symbol!r} the number {numbers.get(symbol)}, and GPT-2's order gives it {number}",
                    "Only vocabularies that are numbered as GPT-2's can be read",
                )

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {name: at for at, name in enumerate([*BYTE_OF, *(left + right for left, right in self._pairs)])}

    @functools.cached_property
    def _words(self) -> Remembered:
        ids = self._ids
        starts = sorted(range(256), key=BYTE_ORDER.__getitem__)
        merges = {(ids[left], ids[right]): rank for rank, (left, right) in enumerate(self._pairs)}
        return Remembered(BytePairs(starts, merges, range(256, 256 + len(self._pairs))).tokens)


# Fields, evaluators and tasks of one run each ask for it, and its tables take a second. Files are equal whatever their
# names, which a checkpoint and errors say.
@functools.lru_cache(maxsize=2)
def _made(merges: Vocabulary, name: str, shipped: bool) -> GPT2:
    return GPT2(merges)


def build(*, path: File | None = None) -> GPT2:
    """GPT-2's tokens.

    Args:
        path: a file of merges, vocab.bpe, merges.txt or tokenizer.json, of another vocabulary of this kind.
    """
    merges = shipped("gpt2.bpe") if path is None else read_vocabulary(path)
    tokenizer = _made(merges, merges.name, merges.shipped)
    if is_json(tokenizer.merges):
        tokenizer.check_numbers(model_in(tokenizer.merges, "BPE")[0], tokenizer.merges.name)
    tokenizer._pairs  # noqa: B018  a damaged file is found here, not in the middle of an epoch
    return tokenizer
