"""NumPy's .npz archives of parameters, the format of google-research's published weights.

Read here without NumPy's reader, which evaluates headers as Python, believes every size and lets the last of two
members of one name win. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html describes the format.
"""

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from vit_jax.checkpoints.json_file import shown
from vit_jax.errors import UserError

_CHUNK = 1 << 22  # bytes
_HEADER_LIMIT = 1 << 16  # bytes
_RANK = 32
# Trained weights hardly compress; new heads are zeros, which do.
_MOST_UNPACKED, _SLACK = 20, 1 << 28  # times the file's size, and bytes on top
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED, _PATCHED, _STRONGLY = 0x1, 0x20, 0x40  # bits of a member's flags that mean that it cannot be read
_HEADER = re.compile(
    r"\s*\{\s*'descr':\s*('[^']*'|\[.*\]),\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([\d\s,L]*)\),?\s*\}\s*",
    re.ASCII | re.DOTALL,
)
_NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f(?:2|4|8|16))", re.ASCII)


class NpzFile:
    """One archive; `shapes` comes from the headers, an array is read when it is asked for.

    Raises:
        UserError: not an archive, cut short, encrypted, compressed in a way that NumPy does not know, with the same
            name twice, with members that are not as long as their headers say or that would unpack to far more than
            the file, or with arrays of objects, which only pickle could read. `[name]` raises for arrays that hold no
            real numbers, such as texts, dates and complex numbers.
    """

    def __init__(self, path: Path):
        self.path, self.metadata = path, {}
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, struct.error) as error:
            raise UserError(f"{path} is not an .npz archive, or cut short", "Fetch it again") from error
        members = self._zip.infolist()
        self._check_size(members)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, tuple[zipfile.ZipInfo, int, np.dtype | str, str]] = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in self.shapes:
                raise UserError(f"{path} holds {shown(name)} twice", "Fetch it again, or do not trust it")
            self._check_member(member, name)
            start, descr, order, self.shapes[name] = self._header(member, name)
            if re.match(r"\[|[<>|=]?O", descr):
                raise UserError(f"{path} holds Python objects in {shown(name)}, which could run code", "Do not open it")
            dtype = _dtype(descr)
            if dtype is not None:
                self._check_length(member, name, start, math.prod(self.shapes[name]) * dtype.itemsize)
            self._places[name] = member, start, descr if dtype is None else dtype, order

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        member, start, dtype, order = self._places[name]
        if isinstance(dtype, str):
            raise UserError(f"{self.path} holds {shown(name)} as {shown(dtype)}, not as real numbers", "Convert it")
        array = np.empty(member.file_size - start, np.uint8)
        try:
            with self._zip.open(member) as stream:
                stream.read(start)
                for at in range(0, len(array), _CHUNK):
                    piece = array[at : at + _CHUNK]
                    read = stream.read(len(piece))
                    if len(read) != len(piece):
                        raise EOFError("it is cut short")
                    piece[:] = np.frombuffer(read, np.uint8)
                stream.read(1)  # at the end its checksum is compared
        except _DAMAGE as error:
            raise self._damaged(name, error) from error
        return array.view(dtype).reshape(self.shapes[name], order=order)

    def _check_size(self, members: list[zipfile.ZipInfo]) -> None:
        size, unpacked = self.path.stat().st_size, sum(member.file_size for member in members)
        if unpacked > _MOST_UNPACKED * size + _SLACK:
            raise UserError(
                f"{self.path} has {size} bytes and says that it unpacks to {unpacked}: these are not trained weights",
                "Do not trust it",
            )

    def _check_member(self, member: zipfile.ZipInfo, name: str) -> None:
        if member.flag_bits & (_ENCRYPTED | _PATCHED | _STRONGLY):
            raise UserError(f"{self.path} is encrypted in {shown(name)}", "Save it without a password")
        if member.compress_type not in _COMPRESSIONS:
            kind = zipfile.compressor_names.get(member.compress_type, member.compress_type)
            raise UserError(
                f"{self.path} is compressed by {kind} in {shown(name)}", "Save it with numpy.savez or savez_compressed"
            )

    def _check_length(self, member: zipfile.ZipInfo, name: str, start: int, count: int) -> None:
        if start + count != member.file_size:
            raise self._damaged(
                name,
                f"an array of {shown(list(self.shapes[name]))} takes {count} bytes, it has {member.file_size - start}",
            )

    def _header(self, member: zipfile.ZipInfo, name: str) -> tuple[int, str, str, tuple[int, ...]]:
        """Where the data begins, the dtype as NumPy writes it, the order ('C' or 'F') and the shape."""
        try:
            with self._zip.open(member) as stream:
                start, text = _header_text(stream)
        except _DAMAGE as error:
            raise self._damaged(name, error) from error
        match = _HEADER.fullmatch(text)
        sides = re.findall(r"\d+", match[3], re.ASCII) if match else []
        if not match or len(sides) > _RANK or any(len(side) > 18 for side in sides):
            raise self._damaged(name, f"its header is {shown(text.strip())}")
        return start, match[1].strip("'"), "F" if match[2] == "True" else "C", tuple(map(int, sides))

    def _damaged(self, name: str, problem: object) -> UserError:
        return UserError(f"{self.path} is damaged in {shown(name)}: {problem}", "Fetch it again")


_DAMAGE = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, struct.error)


def _dtype(descr: str) -> np.dtype | None:
    """The dtype where it is one of real numbers."""
    if descr.lstrip("|<") == "V2":  # NumPy has no bfloat16 and saves it as two anonymous bytes
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(descr) if _NUMBERS.fullmatch(descr) else None


def _header_text(stream: BinaryIO) -> tuple[int, str]:
    """Where a member's data begins, and its header."""
    start = stream.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise ValueError("it is not a NumPy array")
    form = "<H" if start[6] == 1 else "<I"
    (length,) = struct.unpack(form, stream.read(struct.calcsize(form)))
    if length > _HEADER_LIMIT:
        raise ValueError(f"it claims a header of {length} bytes")
    text = stream.read(length)
    if len(text) < length:
        raise ValueError("its header is cut short")
    return 8 + struct.calcsize(form) + length, text.decode("utf-8" if start[6] == 3 else "latin-1")


def write_npz(path: Path, tensors: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Writes an archive without compression, as the published ones are."""
    with path.open("wb") as file:  # given a name, NumPy would append .npz
        np.savez(file, **tensors)
