"""Texts for tests of tokenizers: names in eight scripts, and random Unicode; always the same."""

import functools
import random
import unicodedata

SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "ARABIC", "HEBREW", "DEVANAGARI", "HANGUL", "CJK")


@functools.cache
def names(each: int) -> tuple[str, ...]:
    """`each` names in each of `SCRIPTS`, of one to four words of letters, marks, digits and signs of that script."""
    rng = random.Random(0)
    texts = []
    for script in SCRIPTS:
        characters = [chr(c) for c in range(0x20000) if unicodedata.name(chr(c), "").startswith(script)]
        for _ in range(each):
            words = ("".join(rng.choices(characters, k=rng.randint(1, 9))) for _ in range(rng.randint(1, 4)))
            texts.append(" ".join(words))
    return tuple(texts)


@functools.cache
def unicode_texts(count: int) -> tuple[str, ...]:
    """Of any characters: a half of any that may ever be, a quarter that are, a quarter of the first 592."""
    rng = random.Random(1)
    possible = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    pools = (possible, [c for c in possible if unicodedata.category(chr(c)) != "Cn"], possible, range(0x250))
    return tuple("".join(map(chr, rng.choices(pools[n % 4], k=rng.randint(1, 40)))) for n in range(count))
