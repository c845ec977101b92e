"""Arrays out of .npz files that others wrote, with every size checked before memory is set aside for it.

The formats: APPNOTE of PKWARE for the archive, numpy.lib.format for its members.
"""

import ast
import io
import math
import os
import re
import zipfile
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np

from vit_jax.data.files import from_here, read_bytes
from vit_jax.errors import UserError, shortened

_MOST_HEADER = 10_000  # bytes: numpy's own limit, which keeps the parser of literals quick
_MOST_RATIO = 1_100  # deflate makes nothing more than 1,032 times smaller
_SIMPLE_TYPE = re.compile(r"[<>|=]?[biufcSU][0-9]{0,9}|\|b1")
_HOW = "Write it with numpy.savez"


def read_npz(path: str | os.PathLike, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the arrays `names` that a file holds; others are not unpacked.

    Raises:
        UserError: when it cannot be read, is not such an archive, is damaged, encrypted or packed in an unknown way,
            holds one of them twice, or when one claims more bytes than the file can hold or is not a plain array of
            numbers or text.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise UserError(f"{from_here(path)} could not be read: {error.strerror or error}", "Check the path") from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: _members(archive, name) for name in names}
            for name, found in members.items():
                if len(found) > 1:
                    raise UserError(f"{path} holds the array {name!r} {len(found)} times", _HOW)
            return {name: _array(archive, *found, f"{name!r} in {path}") for name, found in members.items() if found}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError) as error:
        # OSError: a seek to where the directory says that a member lies.
        raise UserError(f"{path} could not be read as an .npz file: {error}", _HOW) from error


def _members(archive: zipfile.ZipFile, name: str) -> list[zipfile.ZipInfo]:
    return [info for info in archive.infolist() if info.filename in (name, f"{name}.npy")]


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    if info.flag_bits & 1:
        raise UserError(f"{name} is encrypted", _HOW)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{name} is packed by method {info.compress_type}", _HOW)
    if info.file_size > _MOST_RATIO * info.compress_size + 1024:
        raise UserError(f"{name} claims {info.file_size} bytes, more than {info.compress_size} packed ones hold", _HOW)
    with archive.open(info) as file:
        return _content(file, info.file_size, name)


def read_npy(data: bytes, name: str) -> np.ndarray:
    """The array of an .npy file.

    Args:
        name: what to call it in errors.

    Raises:
        UserError: it is damaged, or not a plain array of numbers or text.
    """
    return _content(io.BytesIO(data), len(data), name)


def _content(file: Any, size: int, name: str) -> np.ndarray:
    """The array of an open .npy file of so many bytes."""
    dtype, shape, fortran = _header(file, name)
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > size:
        raise UserError(f"{name} has the shape {shortened(str(shape), 100)}, but only {size} bytes", _HOW)
    content = file.read(wanted + 1)
    if len(content) != wanted:
        raise UserError(f"{name} has {len(content)} bytes or more for {wanted}", _HOW)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: Any, name: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise UserError(f"{name} is not an array of numpy's", _HOW)
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    if length > _MOST_HEADER:
        raise UserError(f"{name} has a header of {length} bytes", _HOW)
    text = file.read(length).decode("latin1" if start[6] < 3 else "utf-8", "replace")
    try:
        header = ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that it documents
        header = None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise UserError(f"{name} has a damaged header", _HOW)
    kind, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    if not isinstance(kind, str) or not _SIMPLE_TYPE.fullmatch(kind):
        raise UserError(f"{name} has the type {shortened(repr(kind), 100)}", "Save numbers or text")
    sizes = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and 0 <= n < 2**63 for n in shape)
    if not sizes or not isinstance(fortran, bool):
        raise UserError(f"{name} has the shape {shortened(repr(shape), 100)}", _HOW)
    try:
        return np.dtype(kind), shape, fortran
    except TypeError:  # such as a float of five bytes
        raise UserError(f"{name} has the type {kind!r}", "Save numbers or text") from None
