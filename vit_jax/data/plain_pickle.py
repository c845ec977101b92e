"""Pickles of numbers: lists, dictionaries, texts and NumPy arrays, and nothing that would run.

A pickle is a program: pickle.load of a stranger's file does whatever its author wants. Here its instructions are looked
through first, and the four names that a NumPy array is written with (`_reconstruct`, `ndarray`, `dtype`, and `encode`
for its bytes) stand for plain functions of this module. Any other name is refused before anything is made.
"""

import io
import math
import os
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax.data.files import from_here, read_bytes
from vit_jax.errors import UserError, shortened

_MOST_BYTES = 2**30
# Memo slots, marks, constants, containers, and the three that make an array: GLOBAL, REDUCE, BUILD.
_KNOWN = frozenset(
    (
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "POP",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "GET",
        "BINGET",
        "LONG_BINGET",
        "MEMOIZE",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "UNICODE",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_DICT",
        "DICT",
        "SETITEM",
        "SETITEMS",
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
    )
)
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))


def read_pickle(path: str | os.PathLike) -> Any:
    """What a pickle holds. Texts of Python 2 become str, as latin-1.

    Raises:
        UserError: when it cannot be read, is damaged or larger than 1 GB, holds an array of something else than
            numbers, or anything else than plain values and arrays, which is named.
    """
    try:
        data = read_bytes(path, _MOST_BYTES)
    except OSError as error:
        raise UserError(f"{from_here(path)} could not be read: {error.strerror or error}", "Check the path") from error
    try:
        _look_through(data)
        return _finished(_Reader(io.BytesIO(data), encoding="latin1").load(), {})
    except _Refused as error:
        raise UserError(
            f"{path} is not read: it holds {error}, and only lists, dictionaries, texts and NumPy arrays are safe",
            "Get the file from its authors",
        ) from None
    except (pickle.UnpicklingError, ValueError, TypeError, EOFError, IndexError, KeyError, AttributeError,
            OverflowError, RecursionError) as error:  # fmt: skip
        raise UserError(f"{path} is damaged or no pickle: {shortened(str(error), 200)}", "Fetch it again") from error


class _Refused(Exception):
    """What a pickle holds that is not safe."""


def _look_through(data: bytes) -> None:
    """Every instruction is one of those that plain values need, and no memo slot is further out than there are
    instructions: a number of four bytes would set as many slots aside."""
    count, furthest = 0, 0
    for code, argument, position in pickletools.genops(data):
        count += 1
        if code.name not in _KNOWN:
            raise _Refused(f"the instruction {code.name}")
        if code.name == "GLOBAL" and tuple(argument.split(" ", 1)) not in _NAMES:
            raise _Refused(shortened(argument.replace(" ", "."), 200))
        if code.name in _PUTS:
            furthest = max(furthest, int(argument))
        last = position
    if furthest > count:
        raise ValueError(f"slot {furthest} after {count} instructions")
    if last != len(data) - 1:
        raise ValueError(f"{len(data) - 1 - last} bytes after its end")


class _Array:
    """An array as it is written: the shape, the type and the bytes."""

    made: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(dtype, _Dtype) or dtype.dtype.kind not in "biuf" or not isinstance(content, bytes):
            raise _Refused("an array of something else than numbers")
        if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("an array without a shape")
        if math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise ValueError(f"an array of {len(content)} bytes for the shape {shape}")
        self.made = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """A type of numbers."""

    def __init__(self, name: Any, *_: Any):
        if not isinstance(name, str) or len(name) > 4 or name[:1] not in tuple("biufO"):
            raise _Refused(f"an array of {shortened(repr(name), 50)}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("a text in another encoding")
    return text.encode("latin1")


class _Name:
    """What a name stands for; a pickle can call it, and not change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change of what a name stands for")


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Name(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): _Name(_reconstruct),
    ("numpy", "ndarray"): _Name(_reconstruct),  # an argument of the others
    ("numpy", "dtype"): _Name(_Dtype),
    ("_codecs", "encode"): _Name(_encode),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _Refused(shortened(f"{module}.{name}", 200))
        return _NAMES[module, name]


def _finished(value: Any, known: dict[int, Any], depth: int = 0) -> Any:
    """The arrays in the place of what they were written as.

    Args:
        known: what became of each container, by its id: a small pickle may hold one in a million places.
    """
    if depth > 20:
        raise ValueError("it is nested more than twenty deep")
    if isinstance(value, _Array):
        if value.made is None:
            raise ValueError("an array without content")
        return value.made
    if isinstance(value, (_Dtype, _Name)):
        raise _Refused("a type in the place of a value")
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) not in known:
        if isinstance(value, dict):
            parts = ((_finished(key, known, depth + 1), _finished(one, known, depth + 1)) for key, one in value.items())
        else:
            parts = (_finished(one, known, depth + 1) for one in value)
        known[id(value)] = type(value)(parts)
    return known[id(value)]
