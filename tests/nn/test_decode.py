"""Decoding: what is drawn has the probabilities that it should, and beams find what a search through everything does."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.nn.decode import Sampling, beam_search, decode, kept, length_penalty, pick

V, END, PAD = 5, 4, 0
TABLE = np.random.default_rng(0).normal(size=(3, V, V)).astype(np.float32) * 2  # by place, by last token
KEYS = jax.random.split(jax.random.key(0), 4)


def step(ids, at, cache):
    """Logits that depend on the last two tokens: the one before comes from the cache, where each row has its own."""
    rows = jax.vmap(lambda row, i, place: row.at[place].set(i))(cache[0], ids, at)
    before, cache = jnp.take_along_axis(rows, jnp.maximum(at - 1, 0)[:, None], axis=1)[:, 0], rows[None]
    return jnp.asarray(TABLE)[at % 3, ids] + 0.5 * jnp.asarray(TABLE)[0, before], cache


def logits_of(tokens):
    """The same of a list of tokens, in NumPy."""
    at = len(tokens) - 1
    return TABLE[at % 3, tokens[-1]] + 0.5 * TABLE[0, tokens[max(at - 1, 0)]]


def log_softmax(x):
    x = x.astype(np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def cache_of(rows, length=12):
    return jnp.zeros((1, rows, length), jnp.int32)


def test_greedy_takes_the_best_and_ends_at_the_end():
    first = np.array([1, 2, 3, 1], np.int32)
    run = jax.jit(lambda f: decode(step, cache_of(4), f, jnp.zeros(4, jnp.int32), length=8, keys=KEYS,
                                   sampling=Sampling(0.0), eos_id=END, pad_id=PAD))  # fmt: skip
    found = np.asarray(run(first))
    for row, begin in zip(found, first, strict=True):
        tokens = [begin]
        while tokens[-1] != END and len(tokens) < 9:
            tokens.append(int(logits_of(tokens).argmax()))
        np.testing.assert_array_equal(row, tokens[1:] + [PAD] * (9 - len(tokens)))
    assert (found == END).any(), "no row ends, so the test shows nothing"


def test_the_loop_ends_when_all_rows_have():
    counted = []

    def ends_at_once(ids, at, cache):
        jax.debug.callback(lambda: counted.append(1))
        return jnp.where(jnp.arange(V) == END, 9.0, 0.0) + jnp.zeros((ids.shape[0], 1)), cache

    zeros = jnp.zeros(2, jnp.int32)
    decode(ends_at_once, (), zeros, zeros, length=50, keys=KEYS[:2], sampling=Sampling(0.0), eos_id=END)
    jax.effects_barrier()
    assert len(counted) == 1


def test_a_rows_tokens_depend_on_its_key_and_prompt_alone():
    draw = functools.partial(decode, step, length=6, eos_id=END)
    first = jnp.array([1, 2, 3, 1], jnp.int32)
    at = jnp.array([0, 2, 1, 3], jnp.int32)
    together = draw(cache_of(4), first, at, keys=KEYS)
    for i in range(4):
        alone = draw(cache_of(1), first[i : i + 1], at[i : i + 1], keys=KEYS[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.long
def test_drawn_tokens_have_the_probabilities_that_top_k_and_top_p_leave():
    logits = np.log([0.4, 0.3, 0.15, 0.1, 0.05]).astype(np.float32)
    for sampling, expected in (
        (Sampling(), [0.4, 0.3, 0.15, 0.1, 0.05]),
        (Sampling(top_k=2), [4 / 7, 3 / 7, 0, 0, 0]),
        (Sampling(top_p=0.69), [4 / 7, 3 / 7, 0, 0, 0]),
        (Sampling(top_p=0.71), [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        (Sampling(top_p=0.01), [1, 0, 0, 0, 0]),
        (Sampling(temperature=0.5), np.square([0.4, 0.3, 0.15, 0.1, 0.05]) / 0.285),
        (Sampling(top_k=3, top_p=0.6), [4 / 7, 3 / 7, 0, 0, 0]),
    ):
        np.testing.assert_allclose(jax.nn.softmax(kept(jnp.asarray(logits), sampling)), expected, atol=1e-6)
    keys = jax.random.split(jax.random.key(1), 20_000)
    drawn = pick(jnp.tile(logits, (20_000, 1)), keys, Sampling(top_k=2))
    assert abs(np.mean(np.asarray(drawn) == 0) - 4 / 7) < 0.015
    assert set(np.unique(drawn)) == {0, 1}


def test_of_equal_logits_no_more_than_k_are_kept():
    assert np.isfinite(kept(jnp.zeros(7), Sampling(top_k=3))).sum() == 3
    assert np.isfinite(kept(jnp.zeros(8), Sampling(top_p=0.5))).sum() == 4


def everything(first, length, alpha):
    """Score of all continuations of one row."""
    found = {}
    for count in range(1, length + 1):
        for tokens in itertools.product(range(V), repeat=count):
            ends = tokens[-1] == END
            if END in tokens[:-1] or not (ends or count == length):
                continue
            logs = [log_softmax(logits_of([first, *tokens[:i]]))[tokens[i]] for i in range(count)]
            found[tokens] = sum(logs) / ((5 + count) / 6) ** alpha
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
def test_beams_that_hold_everything_find_the_best(alpha):
    first = np.array([1, 3], np.int32)
    beams, length = 125, 4
    search = jax.jit(
        lambda f: beam_search(
            step, cache_of(2), f, jnp.zeros(2, jnp.int32), length=length, beams=beams, alpha=alpha, eos_id=END
        )
    )
    ids, scores = search(first)
    for row in range(2):
        best = everything(first[row], length, alpha)[:5]
        for place, (tokens, score) in enumerate(best):
            np.testing.assert_allclose(scores[row, place], score, rtol=1e-5)
            np.testing.assert_array_equal(ids[row, place], [*tokens, *[PAD] * (length - len(tokens))])


@pytest.mark.long
def test_one_beam_is_greedy_without_a_penalty_and_rows_do_not_disturb_each_other():
    first = jnp.array([1, 2, 3, 1], jnp.int32)
    at = jnp.array([0, 2, 1, 3], jnp.int32)
    greedy = decode(step, cache_of(4), first, at, length=6, keys=KEYS, sampling=Sampling(0.0), eos_id=END)
    one, _ = beam_search(step, cache_of(4), first, at, length=6, beams=1, eos_id=END)
    np.testing.assert_array_equal(one[:, 0], greedy)
    three, scores = beam_search(step, cache_of(4), first, at, length=6, beams=3, alpha=0.6, eos_id=END)
    alone, score = beam_search(step, cache_of(1), first[1:2], at[1:2], length=6, beams=3, alpha=0.6, eos_id=END)
    np.testing.assert_array_equal(three[1], alone[0])
    np.testing.assert_allclose(scores[1], score[0], rtol=1e-6)


def test_penalties():
    assert length_penalty(7.0, 0.6) == 2**0.6
    assert length_penalty(7.0, 0.6, "mean") == 7**0.6


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_values_out_of_range(values, what):
    with pytest.raises(UserError, match=what):
        Sampling(**values)


def test_a_search_needs_a_beam():
    zeros = jnp.zeros(1, jnp.int32)
    with pytest.raises(UserError, match="0 beams"):
        beam_search(step, cache_of(1), zeros, zeros, length=2, beams=0, eos_id=END)
