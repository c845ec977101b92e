"""Pickles of numbers: lists, dictionaries, texts and NumPy arrays, and nothing that would run.

A pickle is a program: pickle.load of a stranger's file does whatever its author wants. Here its instructions are
followed one by one, those that plain values need and no others. The names that a NumPy array is written with
(`_reconstruct`, `ndarray`, `dtype`, and `encode` for its bytes) are signs, and nothing that could be called.
"""

import enum
import math
import os
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax.data.files import from_here, read_bytes
from vit_jax.errors import UserError, shortened

_MOST_BYTES = 2**30
# CIFAR-100 has a quarter of a million. Each may make a value of a hundred bytes.
_MOST_INSTRUCTIONS = 10**7
_MOST_SIDES = 64  # of an array, as NumPy has it
_VALUES = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE", "UNICODE",
))  # fmt: skip
_TYPE = re.compile("b1|[iuf][0-9]{1,2}|O[0-9]?")


class _Name(enum.Enum):
    """What a pickle of arrays names."""

    ARRAY = enum.auto()
    NDARRAY = enum.auto()  # an argument of the others
    DTYPE = enum.auto()
    ENCODE = enum.auto()


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Name.ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _Name.ARRAY,
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("_codecs", "encode"): _Name.ENCODE,
}


def read_pickle(path: str | os.PathLike) -> Any:
    """What a pickle holds. Texts of Python 2 become str, as latin-1.

    Raises:
        UserError: when it cannot be read, is damaged or larger than 1 GB, holds an array of something else than
            numbers, a dictionary whose keys are no texts, or anything else than plain values and arrays, which is
            named.
    """
    try:
        data = read_bytes(path, _MOST_BYTES)
    except OSError as error:
        raise UserError(f"{from_here(path)} could not be read: {error.strerror or error}", "Check the path") from error
    try:
        return _followed(data)
    except _Refused as error:
        raise UserError(
            f"{path} is not read: it holds {error}, and only lists, dictionaries, texts and NumPy arrays are safe",
            "Get the file from its authors",
        ) from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is damaged or no pickle: {shortened(str(error), 200)}", "Fetch it again") from error


class _Refused(Exception):
    """What a pickle holds that is not safe."""


class _Array:
    """An array between the instruction that begins it and the one that gives it its content."""

    made: np.ndarray | None = None


class _Dtype:
    """A type of numbers."""

    def __init__(self, name: Any):
        if not isinstance(name, str) or not _TYPE.fullmatch(name):
            raise _Refused(f"an array of {shortened(repr(name), 50) if isinstance(name, str) else 'no type'}")
        self.dtype = np.dtype(name)


class _Arguments(tuple):
    """A tuple with something in it that is no value."""


def _followed(data: bytes) -> Any:
    """What the instructions of a pickle make.

    Nothing is hashed but texts: the hash of a tuple in a million others ends the process, and numbers can be chosen to
    have one hash. And texts become bytes once each: many arrays of one text would be larger than any memory.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stack as it was at each mark
    memo: dict[int, Any] = {}
    to_encode = len(data)

    def above_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, below.pop()
        return items

    def encode(text: str) -> bytes:
        nonlocal to_encode
        to_encode -= len(text)
        if to_encode < 0:
            raise _Refused("one text in many arrays")
        return text.encode("latin1")

    for count, (code, argument, position) in enumerate(pickletools.genops(data)):
        if count >= _MOST_INSTRUCTIONS:
            raise _Refused(f"more than {_MOST_INSTRUCTIONS} instructions")
        match code.name:
            case name if name in _VALUES:
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT" | "PUT" | "MEMOIZE":
                slot = len(memo) if argument is None else int(argument)
                if slot > count:
                    raise ValueError(f"slot {slot} after {count} instructions")
                memo[slot] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                value = memo[int(argument)]
                stack.append(value.made if isinstance(value, _Array) and value.made is not None else value)
            case "PROTO" | "FRAME":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(code.name == "NEWTRUE")
            case "MARK":
                below.append(stack)
                stack = []
            case "POP":
                stack.pop() if stack else above_mark()
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                items = above_mark()
                stack.append(_plain(items))
            case "APPEND":
                item = stack.pop()
                _a(list, stack[-1]).extend(_plain([item]))
            case "APPENDS":
                items = above_mark()
                _a(list, stack[-1]).extend(_plain(items))
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = 0 if code.name == "EMPTY_TUPLE" else int(code.name[-1])
                items = [stack.pop() for _ in range(size)][::-1]
                stack.append(_tuple(items))
            case "TUPLE":
                items = above_mark()
                stack.append(_tuple(items))
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = above_mark()
                stack.append(_pairs(items))
            case "SETITEM":
                item, key = stack.pop(), stack.pop()
                _a(dict, stack[-1]).update(_pairs([key, item]))
            case "SETITEMS":
                items = above_mark()
                _a(dict, stack[-1]).update(_pairs(items))
            case "GLOBAL":
                stack.append(_named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_named(module, name))
            case "REDUCE":
                arguments, name = stack.pop(), stack.pop()
                stack.append(_begun(name, arguments, encode))
            case "BUILD":
                state = stack.pop()
                stack[-1] = _built(stack[-1], state, encode)
            case "STOP":
                if position != len(data) - 1:
                    raise ValueError(f"{len(data) - 1 - position} bytes after its end")
                [value] = _plain([stack.pop()])
                return value
            case _:
                raise _Refused(f"the instruction {code.name}")
    raise ValueError("it does not end")


def _a(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"no {kind.__name__} to add to")
    return value


def _no_value(item: Any) -> bool:
    return isinstance(item, (_Array, _Dtype, _Name, _Arguments))


def _plain(items: list[Any]) -> list[Any]:
    for item in items:
        if isinstance(item, _Array):
            raise ValueError("an array without content")
        if _no_value(item):
            raise _Refused("a type in the place of a value")
    return items


def _tuple(items: list[Any]) -> tuple[Any, ...]:
    return _Arguments(items) if any(map(_no_value, items)) else tuple(items)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    keys, values = items[::2], _plain(items[1::2])
    if not all(type(key) in (str, bytes) for key in keys):
        raise _Refused("a dictionary whose keys are no texts")
    return dict(zip(keys, values, strict=True))


def _named(module: Any, name: Any) -> _Name:
    if type(module) is not str or type(name) is not str:
        raise ValueError("a name that is no text")
    if (module, name) not in _NAMES:
        raise _Refused(shortened(f"{module}.{name}", 200))
    return _NAMES[module, name]


def _begun(name: Any, arguments: Any, encode: Callable[[str], bytes]) -> Any:
    """What a call of a name gives."""
    if not isinstance(arguments, tuple):
        raise ValueError("a call without arguments")
    if name is _Name.ARRAY:
        return _Array()
    if name is _Name.DTYPE:
        return _Dtype(arguments[0])
    if name is _Name.ENCODE:
        text, *encoding = arguments
        if type(text) is not str or encoding not in ([], ["latin1"]):
            raise _Refused("a text in another encoding")
        return encode(text)
    raise ValueError("a call of what is no name")


def _built(begun: Any, state: Any, encode: Callable[[str], bytes]) -> Any:
    """What a state makes of what was begun."""
    if isinstance(begun, _Name):
        raise _Refused("a change of what a name stands for")
    if isinstance(begun, _Dtype):
        if isinstance(state, tuple) and state[1] in ("<", ">"):
            begun.dtype = begun.dtype.newbyteorder(state[1])
        return begun
    if not isinstance(begun, _Array) or not isinstance(state, tuple):
        raise ValueError("a state of what has none")
    _, shape, dtype, fortran, content = state
    content = encode(content) if isinstance(content, str) else content
    if not isinstance(dtype, _Dtype) or dtype.dtype.kind not in "biuf" or not isinstance(content, bytes):
        raise _Refused("an array of something else than numbers")
    if not isinstance(shape, tuple) or len(shape) > _MOST_SIDES or not all(type(s) is int and s >= 0 for s in shape):
        raise ValueError("an array without a shape")
    if math.prod(shape) * dtype.dtype.itemsize != len(content):
        raise ValueError(f"an array of {len(content)} bytes for the shape {shape}")
    begun.made = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if fortran else "C")
    return begun.made
