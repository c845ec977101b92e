"""Parts and sums of splits as TFDS writes them: "train", "train[:90%]", "train[100:200]", "train+test".

A part is half open and its bounds are counted from the start before anything is rounded, so that "train[:-1%]" and
"train[-1%:]" always make up the whole. (TFDS 4.9 rounds a negative share first: of fewer than 50 examples its
"train[-1%:]" is all of them.) Otherwise the rounding is TFDS's "closest". Shards as bounds are not read.
"""

import re
from collections.abc import Mapping
from fractions import Fraction

from vit_jax.errors import UserError, shortened
from vit_jax.naming import nearest

_PART = re.compile(r"([\w-]+)(?:\[([^\[\]:]*):([^\[\]:]*)\])?", re.ASCII)
_BOUND = re.compile(r"(-?)(\d{1,18}(?:\.\d{1,18})?)(%?)", re.ASCII)


def parse(text: str, sizes: Mapping[str, int], of: str) -> list[tuple[str, range]]:
    """The splits that `text` names, each with the examples to take of it.

    Args:
        text: names of splits with an optional [from:to], joined by "+". A bound is a number of examples or a share in
            per cent, counted from the end where it is negative.
        sizes: the examples that each split has.
        of: what has these splits, for errors.

    Raises:
        UserError: for an unknown split, a part that cannot be read or reaches outside, and an empty part.
    """
    parts = []
    for word in text.split("+") if isinstance(text, str) else [repr(text)]:
        found = _PART.fullmatch(word.strip())
        if found is None:
            raise UserError(
                f"{of} has no split {shortened(repr(text), 100)}",
                f"Its splits are {', '.join(sizes)}; write parts and sums as 'train[:90%]', 'train[100:200]' or"
                " 'train+test'",
            )
        name, first, last = found.groups()
        if name not in sizes:
            raise UserError(f"{of} has no split {shortened(repr(name), 100)}", nearest(name, sizes))
        size = sizes[name]
        start, stop = _bound(first, 0, size, word, of), _bound(last, size, size, word, of)
        if start >= stop:
            raise UserError(
                f"The split {word.strip()!r} of {of} is empty: it goes from {start} to {stop} of {size} examples",
                "Take a larger part",
            )
        parts.append((name, range(start, stop)))
    return parts


def _bound(text: str | None, default: int, size: int, word: str, of: str) -> int:
    text = (text or "").strip()
    if not text:
        return default
    found = _BOUND.fullmatch(text)
    value = Fraction(found[2]) if found else Fraction(0)
    if found is None or (not found[3] and value.denominator > 1):
        raise UserError(
            f"{shortened(text, 40)!r} in the split {shortened(word, 100)!r} is not a bound", "Write 100, 10% or -10%"
        )
    whole = Fraction(100) if found[3] else Fraction(size)
    value = whole - value if found[1] else value
    if not 0 <= value <= whole:
        raise UserError(
            f"The split {shortened(word, 100)!r} reaches outside the {size} examples of {of}", "Take a smaller part"
        )
    return round(value * size / 100) if found[3] else int(value)
