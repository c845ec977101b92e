"""Tables of numbers and texts out of MATLAB's files of version 5, in plain Python: scipy's reader of them, which is
compiled, ends the process at damaged ones.

The format: MathWorks, "MAT-file format", chapter 1.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_STRUCT, _CHARACTERS, _FIRST_NUMBER, _LAST_NUMBER = 2, 4, 6, 15
_MOST = 2**27  # bytes of what is unpacked


def read_table(data: bytes, name: str) -> list[dict[str, Any]]:
    """The rows of the struct array `name`: by the names of fields their values: a text, a number, a list of numbers, or
    None for other kinds.

    Raises:
        ValueError: when it is no such file, has no such array, or is damaged.
    """
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise ValueError("it is no MATLAB file of version 5")
    order = "<" if data[126:128] == b"IM" else ">"
    try:
        for kind, content in _elements(data[_HEADER:], order):
            if kind == _COMPRESSED:
                kind, content = next(_elements(_unpacked(content), order))
            if kind == _MATRIX and (table := _table(content, name, order)) is not None:
                return table
    except (struct.error, IndexError, StopIteration, UnicodeDecodeError, zlib.error, TypeError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    raise ValueError(f"it has no table {name!r}")


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(data, _MOST)
    if unpacker.unconsumed_tail:
        raise ValueError(f"it has more than {_MOST} bytes")
    return found


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each element; each begins at a multiple of eight bytes, except for packed ones."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # up to four bytes, in the place of the size
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            end = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(data):
            raise ValueError("it is cut short")
        yield kind, data[start : start + size]
        at = end


def _table(content: bytes, name: str, order: str) -> list[dict[str, Any]] | None:
    """The rows of a struct array of this name; None for another one."""
    parts = _elements(content, order)
    flags, shape, named = [next(parts)[1] for _ in range(3)]  # a generator would hide the StopIteration
    if flags[0 if order == "<" else 3] != _STRUCT or named != name.encode():
        return None
    [width] = struct.unpack(f"{order}i", next(parts)[1])
    if width < 1:
        raise ValueError("its fields have no names")
    names = next(parts)[1]
    fields = [names[k : k + width].split(b"\0")[0].decode() for k in range(0, len(names), width)]
    values = [_value(part, order) for kind, part in parts if kind == _MATRIX]
    count = 1
    for side in struct.unpack(f"{order}{len(shape) // 4}i", shape):
        count *= side
    if count * len(fields) != len(values):
        raise ValueError(f"it has {len(values)} values for {count} rows")
    return [
        dict(zip(fields, values[k : k + len(fields)], strict=True)) for k in range(0, len(values), len(fields) or 1)
    ]


def _value(content: bytes, order: str) -> Any:
    """A text, a number or a list of numbers; None for other kinds."""
    if not content:
        return None
    parts = _elements(content, order)
    flags = next(parts)[1][0 if order == "<" else 3]
    next(parts), next(parts)  # its shape and its name, which is empty
    if flags != _CHARACTERS and not _FIRST_NUMBER <= flags <= _LAST_NUMBER:
        return None
    kind, data = next(parts, (1, b""))
    if kind in _TEXTS:
        return data.decode(_TEXTS[kind] + ("" if kind == 16 else "-le" if order == "<" else "-be"))
    numbers = [value for (value,) in struct.iter_unpack(order + _NUMBERS.get(kind, "b"), data)]
    if flags == _CHARACTERS:
        return "".join(map(chr, numbers))
    return numbers[0] if len(numbers) == 1 else numbers
