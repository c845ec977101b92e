"""Masks as the lengths of their runs, as COCO writes them: down the columns, first what is outside."""

from typing import Any

import numpy as np
from jaxtyping import Bool


def run_lengths(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """The lengths of runs, column by column; the first one, which may be 0, is outside of the mask."""
    flat = np.asarray(mask, bool).T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def encode(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """`{"size": [h, w], "counts": ...}` with COCO's compressed text, which its tools and the source `coco` read.

    From the third on a length is said by its difference to the one before the last. A number is written five bits at a
    time, the lowest first, each with a sixth that says whether more follow, as a letter from '0' on.
    """
    lengths, letters = run_lengths(mask), []
    for i, length in enumerate(lengths):
        number = length - lengths[i - 2] if i > 2 else length
        more = True
        while more:
            bits, number = number & 31, number >> 5
            # The highest bit written is the sign.
            more = number != (-1 if bits & 16 else 0)
            letters.append(chr(48 + bits + 32 * more))
    return {"size": list(mask.shape), "counts": "".join(letters)}


def decode(rle: dict[str, Any]) -> Bool[np.ndarray, "h w"]:
    """The mask that `encode` wrote."""
    lengths: list[int] = []
    number = shift = 0
    for letter in rle["counts"]:
        bits = ord(letter) - 48
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) and 1 << shift
            lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
            number = shift = 0
    height, width = rle["size"]
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T
