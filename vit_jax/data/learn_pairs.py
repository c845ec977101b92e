"""Learning byte pairs from texts (Sennrich et al., arXiv:1508.07909, algorithm 1)."""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

Pair = tuple[int, int]


def learn_pairs(
    words: Mapping[tuple[int, ...], int], first: int, count: int, learned: Callable[[], object] = lambda: None
) -> list[Pair]:
    """The pairs of tokens to join, one after the other the commonest; of equally common ones that of the lowest tokens.

    Args:
        words: how often each word occurs, as the tokens of its bytes.
        first: the token that the first pair becomes; the next is one more, and so on.
        count: pairs to learn.
        learned: is called after each.

    Returns:
        at most `count` pairs: fewer where no other comes more than once.
    """
    spelled, often = [list(word) for word in words], list(words.values())
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)  # words that hold a pair, or held it
    for at, word in enumerate(spelled):
        for pair in itertools.pairwise(word):
            counts[pair] += often[at]
            where[pair].add(at)
    heap = [(-number, pair) for pair, number in counts.items()]
    heapq.heapify(heap)
    pairs: list[Pair] = []
    while heap and len(pairs) < count:
        number, pair = heapq.heappop(heap)
        if -number != counts[pair]:  # it has another entry, with what it counts since
            continue
        if counts[pair] < 2:
            break
        changed: set[Pair] = set()
        for at in where.pop(pair):
            before = spelled[at]
            spelled[at] = _joined(before, pair, first + len(pairs))
            for sign, word in ((-1, before), (1, spelled[at])):
                for other in itertools.pairwise(word):
                    counts[other] += sign * often[at]
                    changed.add(other)
                    if sign > 0:
                        where[other].add(at)
        pairs.append(pair)
        for other in changed:
            heapq.heappush(heap, (-counts[other], other))
        learned()
    return pairs


def _joined(word: list[int], pair: Pair, token: int) -> list[int]:
    new, at = [], 0
    while at < len(word):
        if at + 1 < len(word) and (word[at], word[at + 1]) == pair:
            new.append(token)
            at += 2
        else:
            new.append(word[at])
            at += 1
    return new


def counted(texts: Iterable[str], words_of: Callable[[str], Iterable[str]]) -> Counter[str]:
    """How often each word occurs in texts."""
    words: Counter[str] = Counter()
    for text in texts:
        words.update(words_of(text))
    return words
