"""Filling in tokens in passes: the schedule by hand, which stay open, and rows that do not know of each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.nn.masked_decoding import MaskedSampling, fill, open_counts, stays_open

V, T = 6, 12


def test_the_schedule_by_hand():
    # 16 x 16 tokens in 8 passes: cosines of 11.25 degrees times 1, ..., 8.
    assert open_counts(256, 8).tolist() == [251, 236, 212, 181, 142, 97, 49, 0]
    assert open_counts(256, 3).tolist() == [221, 128, 0]  # cos 60 is a half: no rounding may make it less
    # At least one is kept in every pass, and at least one is left for the next one.
    assert open_counts(4, 4).tolist() == [3, 2, 1, 0]
    assert open_counts(2, 3).tolist() == [1, 1, 0]
    assert open_counts(12, 12).tolist() == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert open_counts(0, 3).tolist() == [0, 0, 0]
    assert open_counts(5, 1).tolist() == [0]


def test_the_least_sure_stay_open():
    confidence = jnp.array([[0.1, 0.9, 0.3, 0.2], [0.5, 0.5, 0.5, 0.1], [0.1, 0.2, 0.3, 0.4]])
    open_ = jnp.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
    left = stays_open(confidence, open_, jnp.array([2, 1, 3]))
    np.testing.assert_array_equal(left, np.array([[1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool))


@pytest.fixture(scope="module")
def drawn():
    """Tokens that are filled in by a model that looks at its neighbours, some of them given; and by hand."""
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(V + 1, V)), jnp.float32)
    places = jnp.asarray(rng.normal(size=(T, V)), jnp.float32)

    def guess(tokens, open_, step):
        seen = jnp.where(open_, V, tokens)
        return table[seen] + table[jnp.roll(seen, 1, axis=1)] + places

    tokens = jnp.asarray(rng.integers(0, V, (5, T)))
    open_ = jnp.asarray(np.stack([np.ones(T), np.arange(T) > 3, np.arange(T) == 7, np.zeros(T), np.ones(T)]) > 0)
    keys = jax.random.split(jax.random.key(3), 5)
    sampling = MaskedSampling(steps=4, choice_temperature=2.0)
    return guess, tokens, open_, keys, sampling, jax.jit(lambda *a: fill(guess, *a, sampling))


def test_what_is_given_stays_and_every_pass_keeps_what_the_schedule_says(drawn):
    _, tokens, open_, keys, _, run = drawn
    found = run(tokens, open_, keys)
    np.testing.assert_array_equal(np.where(open_, -1, found.tokens), np.where(open_, -1, tokens))
    np.testing.assert_array_equal(found.passes == -1, ~open_)
    for row in range(5):
        total = int(open_[row].sum())
        left = [int((np.asarray(found.passes[row]) > step).sum()) for step in range(4)]
        assert left == open_counts(total, 4).tolist()
    assert len(np.unique(found.tokens[0])) > 1 and (found.tokens[0] != found.tokens[4]).any()


@pytest.mark.long
def test_rows_do_not_know_of_each_other(drawn):
    guess, tokens, open_, keys, sampling, run = drawn
    whole = run(tokens, open_, keys)
    for rows in ([1], [4, 0]):
        some = fill(guess, tokens[np.array(rows)], open_[np.array(rows)], keys[np.array(rows)], sampling)
        for ours, theirs in zip(some, whole, strict=True):
            np.testing.assert_array_equal(ours, theirs[np.array(rows)])


def test_without_any_chance_it_is_the_algorithm_by_hand(drawn):
    guess, tokens, open_, keys, _, _ = drawn
    sampling = MaskedSampling(steps=3, temperature=0.0, choice_temperature=0.0)
    found = fill(guess, tokens, open_, keys, sampling)
    by_hand, left = np.array(tokens), np.array(open_)
    counts = [open_counts(int(row.sum()), 3) for row in left]
    for step in range(3):
        logits = np.asarray(guess(jnp.asarray(by_hand), jnp.asarray(left), step), np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        by_hand = np.where(left, logits.argmax(-1), by_hand)
        sure = np.take_along_axis(logs, by_hand[..., None], 2)[..., 0]
        for row in range(5):
            places = sorted(np.flatnonzero(left[row]), key=lambda place: sure[row, place])
            left[row] = np.isin(np.arange(T), places[: counts[row][step]])
    np.testing.assert_array_equal(found.tokens, by_hand)


@pytest.mark.long
def test_chance_decides_which_are_kept_and_not_what_they_are():
    """Guesses are always the same, and the first token is the surest. With much noise each is kept in the first of two
    passes as often as another; with none always the first ones."""
    logits = jnp.eye(4)[jnp.arange(T) % 4] * (10 - jnp.arange(T))[:, None]
    keys, rows = jax.random.split(jax.random.key(0), 600), (600, T)

    def kept_first(heat):
        sampling = MaskedSampling(steps=2, temperature=0.0, choice_temperature=heat)
        given = jnp.zeros(rows, int), jnp.ones(rows, bool)
        found = jax.jit(
            lambda keys: fill(lambda t, o, s: jnp.broadcast_to(logits, (*rows, 4)), *given, keys, sampling)
        )(keys)
        np.testing.assert_array_equal(found.tokens, np.broadcast_to(logits.argmax(-1), rows))
        return np.mean(np.asarray(found.passes) == 0, axis=0)

    share = 1 - open_counts(T, 2)[0] / T
    np.testing.assert_allclose(kept_first(1e6), share, atol=0.08)
    np.testing.assert_array_equal(kept_first(0.0), np.arange(T) < share * T)


def test_the_first_pass_draws_as_the_model_says():
    """One pass of many rows: the share of each token is its probability."""
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    keys = jax.random.split(jax.random.key(0), 4000)
    rows = (4000, 2)
    once = MaskedSampling(steps=1)
    found = fill(
        lambda t, o, s: jnp.broadcast_to(logits, (*rows, 4)), jnp.zeros(rows, int), jnp.ones(rows, bool), keys, once
    )
    shares = np.bincount(np.ravel(found.tokens), minlength=4) / 8000
    np.testing.assert_allclose(shares, jnp.exp(logits), atol=0.02)


def test_more_passes_than_tokens_are_refused(drawn):
    guess, tokens, open_, keys, sampling, _ = drawn
    with pytest.raises(UserError, match="13 passes cannot fill 12 tokens"):
        fill(guess, tokens, open_, keys, dataclasses.replace(sampling, steps=13))
