"""Evolutionary search without any model."""

import itertools
import random

import pytest

from vit_jax.errors import UserError
from vit_jax.planning.evolution import Space, search

SPACE = Space(((0.0, 0.1, 0.2, 0.3), (0.0, 0.5), (0.0, 0.1, 0.2)), (1, 1, 3))
WEIGHTS = ((3.0,), (-2.0,), (1.0, 1.0, -4.0))


def score(candidate):
    return sum(w * r for ws, rs in zip(WEIGHTS, candidate, strict=True) for w, r in zip(ws, rs, strict=True))


def cost(candidate):
    return 1 - sum(map(sum, candidate)) / 3


def every(space):
    groups = (itertools.combinations_with_replacement(c, n) for c, n in zip(space.choices, space.counts, strict=True))
    return list(itertools.product(*groups))


def last(space=SPACE, window=(0.0, 1.0), seed=0, generations=3, population=20, parents=5, score=score, **kwargs):
    options = {"generations": generations, "seed": seed, "population": population, "parents": parents, **kwargs}
    return list(search(space, cost, score, window, **options))[-1]


def test_a_space_counts_its_candidates():
    assert len(SPACE) == len(every(SPACE)) == 4 * 2 * 10
    published = Space((tuple(i / 10 for i in range(9)),) * 4, (1, 1, 3, 1))  # SparseViT's of Swin-T
    assert len(published) == 9 * 9 * 165 * 9


def test_draws_mutants_and_children_are_of_the_space():
    rng, known = random.Random(0), set(every(SPACE))
    drawn = [SPACE.drawn(rng) for _ in range(200)]
    mutants = [SPACE.mutated(one, 0.5, rng) for one in drawn]
    children = [SPACE.crossed(pair, rng) for pair in itertools.pairwise(drawn)]
    assert {*drawn, *mutants, *children} <= known
    assert all(SPACE.mutated(one, 0.0, rng) == one for one in drawn)
    assert all(SPACE.crossed([one, one], rng) == one for one in drawn)
    assert mutants != drawn


def test_it_finds_the_best_within_the_window():
    """Of 4,375 candidates, with what pruning costs growing as the square of a ratio, at other rates in each stage."""
    space = Space((tuple(i / 5 for i in range(5)),) * 4, (1, 1, 3, 1))
    rates, shares = ((1.0,), (3.0,), (2.0, 1.0, 0.5), (2.0,)), ((0.2,), (0.2,), (0.15, 0.15, 0.15), (0.15,))

    def over(weights, values):
        return sum(w * r for ws, rs in zip(weights, values, strict=True) for w, r in zip(ws, rs, strict=True))

    def costs(candidate):
        return 1 - over(shares, candidate)

    def scores(candidate):
        return -over(rates, [[r * r for r in rs] for rs in candidate])

    window = (0.6, 0.7)
    allowed = [one for one in every(space) if window[0] <= costs(one) <= window[1]]
    *_, found = search(space, costs, scores, window, generations=10, seed=0)
    assert found.score == max(map(scores, allowed)) and window[0] <= found.cost <= window[1]
    assert found.score < max(map(scores, every(space)))  # the window matters


def test_populations_get_better():
    """With the parents and without them: a generation of children is better than one of draws."""
    large = Space((tuple(i / 100 for i in range(100)),) * 8, (1,) * 8)
    of_parents = last(large, score=lambda c: -sum(map(sum, c)), population=40, parents=10, generations=15).score
    alone = last(large, score=lambda c: -sum(map(sum, c)), population=600, generations=1).score
    assert of_parents > alone + 0.5


def test_the_seed_decides_all_and_nothing_is_scored_twice():
    asked = []

    def noted(candidate):
        asked.append(candidate)
        return score(candidate)

    first = [last(seed=1, score=noted), list(asked)]
    assert len(asked) == len(set(asked))
    asked.clear()
    assert [last(seed=1, score=noted), asked] == first
    asked.clear()
    assert last(seed=2, score=noted) and asked != first[1]


def test_an_interrupted_search_goes_on_with_what_was_scored():
    memory, calls = {}, 0

    def remembered(candidate, most):
        nonlocal calls
        if candidate not in memory:
            if calls == most:
                raise KeyboardInterrupt
            calls += 1
            memory[candidate] = score(candidate)
        return memory[candidate]

    whole = last(generations=4)
    with pytest.raises(KeyboardInterrupt):
        last(generations=4, score=lambda c: remembered(c, 15))
    assert last(generations=4, score=lambda c: remembered(c, 10**6)) == whole


def test_of_equal_candidates_the_cheapest_is_taken():
    found = last(score=lambda c: 0.0, generations=8)
    assert found.cost == min(map(cost, every(SPACE)))


def test_an_empty_window_is_said():
    with pytest.raises(UserError, match="No candidates were found that cost between 2 and 3"):
        last(window=(2.0, 3.0))
