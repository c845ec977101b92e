"""Choosing tokens to guess: the shares by counting, what is never chosen, whole words, and what it depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.nn.token_masking import corrupted

MASK, VOCABULARY = 4, 1000


def texts(rows, length, seed=0):
    """Random ids from 10 on, with ids below 10 at both ends and as padding, and which of them may be chosen."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(10, VOCABULARY, (rows, length), np.int32)
    ids[:, 0] = 2
    real = rng.integers(length // 2, length + 1, rows)
    place = np.arange(length)
    ids[place[None] == real[:, None] - 1] = 3
    ids[place[None] >= real[:, None]] = 0
    return ids, ids >= 10


def run(ids, candidates, seed=0, most=None, starts=None):
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(len(ids)))
    most = most or -(-ids.shape[1] * 15 // 100)
    kwargs = {"share": 0.15, "most": most, "mask_id": MASK, "vocab_size": VOCABULARY}
    chosen = jax.jit(lambda k, i, c, s: corrupted(k, i, c, starts=s, **kwargs))(keys, ids, candidates, starts)
    return jax.tree.map(np.asarray, chosen)


def choice(found, shape):
    """Which tokens were chosen, [B, L]."""
    chosen = np.zeros(shape, bool)
    np.put_along_axis(chosen, found.places, found.chosen > 0, axis=1)
    return chosen


@pytest.mark.long
@pytest.mark.parametrize("length", [128, 37])
def test_shares_over_a_million_tokens(length):
    ids, candidates = texts(1_600_000 // length, length)
    found = run(ids, candidates)
    chosen = choice(found, ids.shape)
    assert candidates.sum() > 1_000_000
    assert not chosen[~candidates].any()
    assert abs(chosen.sum() / candidates.sum() - 0.15) < 0.003
    masked, same = found.ids == MASK, found.ids == ids
    kinds = [(chosen & masked).sum(), (chosen & ~masked & ~same).sum(), (chosen & same).sum()]
    np.testing.assert_allclose(np.array(kinds) / chosen.sum(), [0.8, 0.1, 0.1], atol=0.003)
    assert same[~chosen].all()
    # Every place of a text is as likely as another, and a random id is any of the vocabulary.
    there = candidates.sum(axis=0) > 4000
    np.testing.assert_allclose(chosen.sum(0)[there] / candidates.sum(0)[there], 0.15, atol=0.035)
    drawn = found.ids[chosen & ~masked & ~same]
    assert drawn.min() < 10 and drawn.max() > VOCABULARY - 10
    np.testing.assert_allclose(drawn.mean(), VOCABULARY / 2, atol=10)


def test_what_was_chosen_is_what_has_to_be_guessed():
    ids, candidates = texts(50, 40)
    found = run(ids, candidates)
    np.testing.assert_array_equal(np.take_along_axis(ids, found.places, axis=1), found.targets)
    assert len({tuple(row) for row in found.places}) == 50
    assert all(len(set(row)) == len(row) for row in found.places)


@pytest.mark.long
def test_whole_words():
    """Tokens that go on a word share its fate, and the shares stay what they are."""
    length = 120
    ids, candidates = texts(9000, length, seed=1)
    starts = ids % 3 != 0
    found = run(ids, candidates, starts=starts)
    chosen = choice(found, ids.shape)
    together = ~starts[:, 1:] & candidates[:, 1:] & candidates[:, :-1]
    assert together.sum() > 200_000
    np.testing.assert_array_equal(chosen[:, 1:][together], chosen[:, :-1][together])
    assert not chosen[~candidates].any()
    assert abs(chosen.sum() / candidates.sum() - 0.15) < 0.003


def test_a_choice_depends_on_the_key_of_its_text_alone():
    ids, candidates = texts(16, 40)
    whole, part = run(ids, candidates), run(ids[:3], candidates[:3])
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[:3], b)
    assert (whole.ids != run(ids, candidates, seed=1).ids).any()


def test_short_texts_have_one_token_to_guess_and_empty_ones_none():
    ids = np.array([[2, 20, 3, 0, 0], [2, 3, 0, 0, 0]], np.int32)
    found = run(ids, ids >= 10, most=2)
    np.testing.assert_array_equal(found.chosen.sum(axis=1), [1, 0])
    assert found.places[0, 0] == 1 and (found.ids[1] == ids[1]).all()


def test_no_more_are_chosen_than_there_is_room_for():
    ids, candidates = texts(20, 40)
    assert run(ids, candidates, most=2).places.shape == (20, 2)
    assert run(ids, candidates, most=99).places.shape == (20, 40)
