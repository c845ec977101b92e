"""Evolutionary search for the best candidate within a window of costs, as SparseViT finds its pruning ratios.

The algorithm is that of the authors' code (github.com/mit-han-lab/sparsevit, tools/search.py; arXiv:2303.17605, section
3.3): populations of which the best are the parents of the next one, half of it by mutation and half by crossover. Only
candidates within the window are scored; the best one of all populations is found.
"""

import dataclasses
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from vit_jax.errors import UserError

Candidate = tuple[tuple[float, ...], ...]  # of each group its values, none smaller than the one before

# So many candidates in a row outside of the window, and it is said to be empty.
_MISSES = 20_000


@dataclasses.dataclass(frozen=True)
class Space:
    """Groups of values that do not decrease within a group.

    Args:
        choices: of each group what a value may be.
        counts: of each group how many values it has.
    """

    choices: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]

    def drawn(self, rng: random.Random) -> Candidate:
        """Each value drawn by itself, then those of a group sorted."""
        groups = zip(self.choices, self.counts, strict=True)
        return self._sorted([[rng.choice(choices) for _ in range(count)] for choices, count in groups])

    def mutated(self, candidate: Candidate, probability: float, rng: random.Random) -> Candidate:
        """Each value replaced by that of a drawn candidate with a probability."""
        pairs = zip(candidate, self.drawn(rng), strict=True)
        return self._sorted([[b if rng.random() < probability else a for a, b in zip(*p, strict=True)] for p in pairs])

    def crossed(self, parents: Sequence[Candidate], rng: random.Random) -> Candidate:
        """Each value from one of the parents."""
        groups = zip(*parents, strict=True)
        return self._sorted([[rng.choice(values) for values in zip(*group, strict=True)] for group in groups])

    def __len__(self) -> int:
        """How many candidates there are: in a group k out of n choices, with repeats."""
        groups = zip(self.choices, self.counts, strict=True)
        return math.prod(math.comb(len(choices) + count - 1, count) for choices, count in groups)

    def _sorted(self, groups: Sequence[Sequence[float]]) -> Candidate:
        return tuple(tuple(sorted(group)) for group in groups)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A candidate with what it costs and what it is worth."""

    candidate: Candidate
    cost: float
    score: float

    @property
    def rank(self) -> tuple[float, float]:
        """Of equal ones the cheaper is better."""
        return (self.score, -self.cost)


def search(
    space: Space,
    cost: Callable[[Candidate], float],
    score: Callable[[Candidate], float],
    window: tuple[float, float],
    *,
    generations: int,
    seed: int,
    population: int = 100,
    parents: int = 25,
    mutation: float = 0.1,
) -> Iterator[Scored]:
    """The best candidate after each generation; the last one is what was searched for.

    The candidates are a function of the seed and of what the others cost and are worth: with a `score` that remembers,
    a search that was interrupted repeats itself up to where it was, and goes on.

    Args:
        cost: of a candidate; asked for all that are drawn, so it must be cheap.
        score: of a candidate within the window, asked once for each; more is better.
        window: the smallest and the largest cost that are wanted, both of them included.
        generations: populations.
        seed: of all draws.
        population: candidates within the window, some of them twice.
        parents: the best ones of a population, from which the next one is made.
        mutation: probability that a value is drawn anew in a mutation.

    Raises:
        UserError: no candidate is found within the window.
    """
    rng = random.Random(seed)
    known: dict[Candidate, Scored] = {}
    best: Scored | None = None
    elders: list[Candidate] = []
    for _ in range(generations):
        members: list[Scored] = []
        misses = 0
        while len(members) < population:
            if not elders:
                drawn = space.drawn(rng)
            elif len(members) < population // 2:
                drawn = space.mutated(rng.choice(elders), mutation, rng)
            else:
                drawn = space.crossed(rng.sample(elders, min(2, len(elders))), rng)
            if drawn not in known:
                costs = cost(drawn)
                if not window[0] <= costs <= window[1]:
                    misses += 1
                    if misses > _MISSES:
                        raise _empty(window, known)
                    continue
                known[drawn] = Scored(drawn, costs, score(drawn))
            misses = 0
            members.append(known[drawn])
        ranked = sorted(members, key=lambda member: member.rank, reverse=True)
        elders = [member.candidate for member in ranked[:parents]]
        if best is None or ranked[0].rank > best.rank:
            best = ranked[0]
        yield best


def _empty(window: tuple[float, float], known: Mapping[Candidate, Scored]) -> UserError:
    more = "" if not known else f" but {len(known)}"
    return UserError(
        f"No candidates{more} were found that cost between {window[0]:.4g} and {window[1]:.4g}",
        "Widen the window, or move it",
    )
