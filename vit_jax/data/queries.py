"""Words and pairs of words by which captions are searched and balanced, as CLIP's data were (arXiv:2103.00020, section
2.2: 500,000 queries, at most 20,000 pairs each)."""

import collections
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator

from vit_jax.data.files import from_here, read_bytes
from vit_jax.errors import UserError

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words(text: str) -> list[str]:
    """Its words in lower case, without punctuation; "it's" and "x-ray" are one each."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def learned(texts: Iterable[str], least: int, bigrams: int) -> tuple[list[str], list[str]]:
    """Queries out of texts, the commonest first: all words that occur often, and of the pairs of neighbouring words
    that occur as often those of the highest pointwise mutual information, which say more together than apart.

    Args:
        least: how often a word or a pair occurs (100 for CLIP, in the English Wikipedia).
        bigrams: how many pairs at most. How many CLIP took is not published, nor is the bound.

    Returns:
        The words, and the pairs.
    """
    single: collections.Counter[str] = collections.Counter()
    pairs: collections.Counter[tuple[str, str]] = collections.Counter()
    for text in texts:
        for line in text.splitlines():
            found = words(line)
            single.update(found)
            pairs.update(itertools.pairwise(found))
    total = sum(single.values())
    information = {
        pair: math.log(count * total / (single[pair[0]] * single[pair[1]]))
        for pair, count in pairs.items()
        if count >= least
    }
    # Of equals in their order, so that the same texts give the same list.
    best = sorted(information, key=lambda pair: (-information[pair], pair))[:bigrams]
    often = sorted((word for word, count in single.items() if count >= least), key=lambda word: (-single[word], word))
    return often, [" ".join(pair) for pair in sorted(best, key=lambda pair: (-pairs[pair], pair))]


class Queries:
    """A list of queries, each of one word or several in a row.

    Args:
        queries: in any spelling that `words` makes one of.

    Raises:
        UserError: where there are none.
    """

    def __init__(self, queries: Iterable[str]):
        self._known = dict.fromkeys(tuple(found) for query in queries if (found := words(query)))
        if not self._known:
            raise UserError("There are no queries", "Write one on each line")
        self._longest = max(map(len, self._known))

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[str]:
        return (" ".join(query) for query in self._known)

    def found_in(self, texts: Iterable[str]) -> list[str]:
        """Those that are in any of some texts, whole words in a row, each once and in the order of the texts."""
        found: dict[str, None] = {}
        for text in texts:
            of = words(text)
            for start in range(len(of)):
                for end in range(start + 1, min(start + self._longest, len(of)) + 1):
                    if tuple(of[start:end]) in self._known:
                        found[" ".join(of[start:end])] = None
        return list(found)


def read(path: str) -> Queries:
    """A list with a query on each line, in UTF-8.

    Raises:
        UserError: for a file that cannot be read or holds none.
    """
    try:
        text = read_bytes(os.path.expanduser(path)).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{from_here(path)} could not be read: {error.strerror or error}", "Check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} has bytes that are not UTF-8", "Save it as UTF-8") from error
    return Queries(text.splitlines())
