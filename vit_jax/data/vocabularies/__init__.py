"""Files that tokenizers are made of: those of published models, shipped here (NOTICE has their sources and licences),
and anybody's."""

import base64
import binascii
import dataclasses
import hashlib
import os
import zlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from vit_jax.data.files import from_here, read_bytes
from vit_jax.errors import UserError

SHIPPED = ("bert_uncased.txt", "bpe_simple_vocab_16e6.txt.gz", "gpt2.bpe")
MOST_BYTES = 64 * 2**20
"""Bytes that a vocabulary may have, and may unpack to."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A file that a tokenizer is made of. Two are equal when their contents are.

    Args:
        name: what people know it by, for errors: a path, or the name of a file that is shipped here.
        sha256: of `data`, in hexadecimal.
        data: all its bytes.
        shipped: whether it is one of those that lie here.
    """

    name: str = dataclasses.field(compare=False)
    sha256: str
    data: bytes = dataclasses.field(repr=False, compare=False)
    shipped: bool = dataclasses.field(default=False, compare=False)

    def text(self) -> str:
        """Its contents; those of a .gz file unpacked.

        Raises:
            UserError: names the line that is not UTF-8, or a .gz file that is damaged.
        """
        data = self.data
        if data[:2] == b"\x1f\x8b":
            data = _unpacked(data, self.name, 16 + zlib.MAX_WBITS)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(f"Line {line} of {self.name} is not UTF-8", "Take an undamaged copy of it") from error

    def to_json(self) -> dict[str, str]:
        """What `read_vocabulary` makes it of again, wherever its file has gone: a checkpoint keeps this.

        The file itself is in it, packed, unless every copy of vit_jax has it.
        """
        known = {"name": self.name, "sha256": self.sha256}
        return known if self.shipped else {**known, "data": base64.b64encode(zlib.compress(self.data, 9)).decode()}


File = str | Mapping[str, Any]
"""A path, or what `Vocabulary.to_json` gave."""


def read_vocabulary(file: File | os.PathLike) -> Vocabulary:
    """Somebody's file.

    Raises:
        UserError: when it cannot be read, or is not what a checkpoint says it was.
    """
    if isinstance(file, Mapping):
        return _stored(file)
    try:
        data = read_bytes(file, MOST_BYTES)
    except OSError as error:
        raise UserError(
            f"The vocabulary {from_here(file)} cannot be read: {error.strerror or error}", "Check its path"
        ) from error
    return _vocabulary(os.fspath(file), data)


def shipped(name: str) -> Vocabulary:
    """The file of that name in this folder."""
    return dataclasses.replace(_vocabulary(name, resources.files(__name__).joinpath(name).read_bytes()), shipped=True)


def damaged(name: str, why: str) -> UserError:
    return UserError(f"{name} is no vocabulary that can be read: {why}", "Take an undamaged copy of it")


def _stored(known: Mapping[str, Any]) -> Vocabulary:
    name, data = known.get("name"), known.get("data")
    if not isinstance(name, str) or not isinstance(data, str | None) or (data is None and name not in SHIPPED):
        raise UserError(
            "A stored vocabulary has neither a name that is known nor its data", "Give the path of its file"
        )
    if data is None:
        vocabulary = shipped(name)
    else:
        try:
            packed = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise damaged(name, "it is not in base 64") from error
        vocabulary = _vocabulary(name, _unpacked(packed, name, zlib.MAX_WBITS))
    if vocabulary.sha256 != known.get("sha256"):
        raise UserError(
            f"The vocabulary {name} is not the one that the checkpoint was trained with",
            "Use the version of vit_jax that wrote the checkpoint" if data is None else "Take an undamaged copy of it",
        )
    return vocabulary


def _vocabulary(name: str, data: bytes) -> Vocabulary:
    return Vocabulary(name, hashlib.sha256(data).hexdigest(), data)


def _unpacked(packed: bytes, name: str, bits: int) -> bytes:
    unpacker = zlib.decompressobj(bits)
    try:
        data = unpacker.decompress(packed, MOST_BYTES)
    except zlib.error as error:
        raise damaged(name, "it cannot be unpacked") from error
    if not unpacker.eof:
        raise damaged(name, "it unpacks to too much" if unpacker.unconsumed_tail else "its end is missing")
    return data
