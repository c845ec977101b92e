"""N-grams of bytes with Witten-Bell smoothing: what a language model that learns nothing but counts makes of texts."""

import numpy as np
from jaxtyping import Float64, UInt64

_MOST = 8  # bytes in an integer


def bits_per_byte(train: bytes, test: bytes, orders: int) -> list[float]:
    """Cross-entropy of `test` in bits a byte under models of order 1 (single bytes) to `orders`.

    A context h with c(h) bytes after it, T(h) of them different, gives the byte w the probability (c(hw) + T(h) p(w)) /
    (c(h) + T(h)), where p is that of the next shorter context ("The zero-frequency problem", Witten and Bell 1991,
    method C, interpolated); below single bytes all 256 are alike. Bytes of `test` that have no whole context before
    them have the longest one that there is.
    """
    if not 1 <= orders <= _MOST:
        raise ValueError(f"orders up to {_MOST} fit, not {orders}")
    probability = np.full(len(test), 1 / 256)
    bits = []
    for order in range(1, orders + 1):
        grams, counts = np.unique(_grams(train, order), return_counts=True)
        contexts, start = np.unique(grams >> np.uint64(8), return_index=True)  # sorted, as the grams are
        totals, kinds = np.add.reduceat(counts, start), np.diff([*start, len(grams)])
        asked = _grams(test, order)
        seen = _looked_up(asked, grams, counts)
        before = asked >> np.uint64(8)
        total, kind = _looked_up(before, contexts, totals), _looked_up(before, contexts, kinds)
        lower = probability[order - 1 :]
        # Where the context is unknown the shorter one decides alone.
        known = (seen + kind * lower) / np.maximum(total + kind, 1)
        probability[order - 1 :] = np.where(total > 0, known, lower)
        bits.append(float(-np.log2(probability).mean()))
    return bits


def _grams(text: bytes, order: int) -> UInt64[np.ndarray, " n"]:
    """Each run of `order` bytes as an integer, the first byte the most significant."""
    values = np.frombuffer(text, np.uint8).astype(np.uint64)
    count = max(len(values) - order + 1, 0)
    found = np.zeros(count, np.uint64)
    for i in range(order):
        found = (found << np.uint64(8)) | values[i : i + count]
    return found


def _looked_up(
    keys: UInt64[np.ndarray, " n"], known: UInt64[np.ndarray, " m"], values: np.ndarray
) -> Float64[np.ndarray, " n"]:
    """The values of the keys, 0 for those that are not known; `known` is sorted."""
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, values[place], 0).astype(np.float64)
