"""Records as `tf.train.Example`, of which TFDS makes its files, read without TensorFlow or protobuf.

The format is protocol buffers' wire format (protobuf.dev/programming-guides/encoding) of tensorflow/core/example:
`Example {1: Features {1: map of name and Feature}}`, a Feature being one of a BytesList (1), FloatList (2) and
Int64List (3).
"""

import struct
from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EMPTY = memoryview(b"")


Values = list[bytes] | list[float] | list[int]


def read_example(record: bytes) -> dict[str, Values]:
    """The values of each feature.

    Raises:
        ValueError: with a reason that completes "the record ...", when it is not such a message.
    """
    values: dict[str, Values] = {}
    for features in _messages(memoryview(record), 1):  # a view: an image is copied once, not at every level
        for entry in _messages(features, 1):
            fields = dict(_fields(entry))
            name, feature = fields.get(1, _EMPTY), fields.get(2, _EMPTY)
            if isinstance(name, int) or isinstance(feature, int):
                raise ValueError("is damaged: a feature has no name")
            if (found := _feature(feature)) is not None:
                values[bytes(name).decode("utf-8", "replace")] = found
    return values


def _feature(message: memoryview) -> Values | None:
    for kind, content in _fields(message):
        if isinstance(content, int):
            raise ValueError("is damaged: a feature is not a list")
        if kind == 1:
            return [bytes(value) for value in _messages(content, 1)]
        if kind == 2:
            floats: list[float] = []
            for number, value in _fields(content):
                if number == 1 and not isinstance(value, int):  # packed, or one at a time
                    if len(value) % 4:
                        raise ValueError("is damaged: a list of floats is cut short")
                    floats += struct.unpack(f"<{len(value) // 4}f", value)
            return floats
        if kind == 3:
            numbers: list[int] = []
            for number, value in _fields(content):
                if number == 1 and isinstance(value, int):
                    numbers.append(value)
                elif number == 1:  # packed
                    at = 0
                    while at < len(value):
                        one, at = _varint(value, at)
                        numbers.append(one)
            return [number - 2**64 if number >= 2**63 else number for number in numbers]
    return None


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """The fields of one number that hold bytes."""
    return (value for k, value in _fields(message) if k == number and not isinstance(value, int))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field of one message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"is damaged: unknown wire type {kind}")
        if length > len(message) - at:
            raise ValueError("is cut short")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number in base 128, lowest digits first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise ValueError("is damaged: a number has no end")
