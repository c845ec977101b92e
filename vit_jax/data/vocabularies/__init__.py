"""Files that tokenizers are made of: those of published models, shipped here (NOTICE has their sources and licences),
and anybody's."""

import dataclasses
import hashlib
import os
import zlib
from importlib import resources

from vit_jax.data.files import from_here, read_bytes
from vit_jax.errors import UserError

MOST_BYTES = 64 * 2**20
"""Bytes that a vocabulary may have: the largest of published ones have some 10 MB."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A file that a tokenizer is made of. Two are equal when their contents are.

    Args:
        name: what people know it by, for errors: a path, or the name of a file that is shipped here.
        sha256: of `data`, in hexadecimal.
        data: all its bytes.
    """

    name: str = dataclasses.field(compare=False)
    sha256: str
    data: bytes = dataclasses.field(repr=False, compare=False)

    def text(self) -> str:
        """Its contents; those of a .gz file unpacked.

        Raises:
            UserError: names the line that is not UTF-8, or a .gz file that is damaged.
        """
        data = self.data
        if data[:2] == b"\x1f\x8b":
            data = self._unpacked()
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(f"Line {line} of {self.name} is not UTF-8", "Take an undamaged copy of it") from error

    def _unpacked(self) -> bytes:
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            data = unpacker.decompress(self.data, MOST_BYTES)
        except zlib.error as error:
            raise damaged(self.name, "it cannot be unpacked") from error
        if not unpacker.eof:
            more = "it unpacks to too much" if unpacker.unconsumed_tail else "its end is missing"
            raise damaged(self.name, more)
        return data


def damaged(name: str, why: str) -> UserError:
    return UserError(f"{name} is no vocabulary that can be read: {why}", "Take an undamaged copy of it")


def shipped(name: str) -> Vocabulary:
    """The file of that name in this folder."""
    return _vocabulary(name, resources.files(__name__).joinpath(name).read_bytes())


def read_vocabulary(path: str | os.PathLike) -> Vocabulary:
    """Somebody's file.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        data = read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise UserError(
            f"The vocabulary {from_here(path)} cannot be read: {error.strerror or error}", "Check its path"
        ) from error
    return _vocabulary(os.fspath(path), data)


def _vocabulary(name: str, data: bytes) -> Vocabulary:
    return Vocabulary(name, hashlib.sha256(data).hexdigest(), data)
