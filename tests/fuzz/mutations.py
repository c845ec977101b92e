"""Ways to damage bytes and JSON values, drawn from a generator."""

import json
from typing import Any

import numpy as np

_LIES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "\0",
    "../../etc/passwd", "a" * 5000, "é\n\x1b[31m", [], {}, [[]], [None], [1, 2, 3], {"a": {"b": []}}, [[[[1]]]],
)  # fmt: skip


def damaged_bytes(rng: np.random.Generator, data: bytes) -> bytes:
    """`data` after one to four flips, cuts, insertions, repetitions or stretches of noise."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not data:
            break
        at = int(rng.integers(len(data)))
        length = int(rng.integers(1, 64))
        match rng.integers(7):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                del data[at:]
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = rng.bytes(length)
            case 4:
                data[at : at + length] = rng.bytes(length)
            case 5:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 4))
            case 6:
                data[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7])
    return bytes(data)


def damaged_value(rng: np.random.Generator, value: Any) -> Any:
    """A JSON value of which one part is replaced by a lie, removed, renamed, wrapped or nested deeply."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        value, key = dict(value), str(rng.choice(list(value)))
        match rng.integers(8):
            case 0:
                del value[key]
            case 1:
                value[key + "_"] = value.pop(key)
            case _:
                value[key] = damaged_value(rng, value[key])
        return value
    if isinstance(value, list) and value and rng.random() < 0.7:
        value, at = list(value), int(rng.integers(len(value)))
        if rng.random() < 0.2:
            del value[at]
        else:
            value[at] = damaged_value(rng, value[at])
        return value
    match rng.integers(8):
        case 0:
            return [value]
        case 1:
            return {"a": value}
        case 2:
            for _ in range(int(rng.integers(50, 3000))):
                value = [value]
            return value
        case 3 if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**64:
            return value * float(rng.choice([-1, 1e3, 1e9, 1e-9]))
        case 4 if isinstance(value, str):
            return value + str(rng.choice(["_", "é", "\n", " ", "0"]))
    return _LIES[int(rng.integers(len(_LIES)))]


def damaged_json(rng: np.random.Generator, value: Any) -> bytes:
    """JSON text of `value`, damaged as a value most of the time and as bytes otherwise."""
    if rng.random() < 0.85:
        for _ in range(int(rng.integers(1, 4))):
            value = damaged_value(rng, value)
        try:
            return json.dumps(value).encode()
        except (RecursionError, ValueError):  # deeper than json writes, or an integer longer than Python prints
            return b"[" * 100_000 + b"9" * 5000
    return damaged_bytes(rng, json.dumps(value).encode())
