"""Tokens one after the other: greedy, drawn, or by beams, as one compiled loop over a cache.

What is decoded is a function `step(ids [B], at [B], cache) -> (logits [B, V], cache)`: a row's last token and its
position go in, the logits of the token after it come out.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from vit_jax.errors import UserError

Step = Callable[[Int[Array, " b"], Int[Array, " b"], PyTree], tuple[Float[Array, "b v"], PyTree]]

_LOW = -1e30  # a logarithm of no probability that can be added to others


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: the logits are divided by it; 0 takes the most probable token, of equals the first.
        top_k: only as many tokens, the most probable ones, can be drawn; None for all.
        top_p: only the most probable tokens can be drawn that together have this probability, at least one ("The
            curious case of neural text degeneration", arXiv:1904.09751); None for all. After `top_k`.

    Raises:
        UserError: for a value out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"The temperature is {self.temperature}", "Use 0 for the most probable token, or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}", "Let at least 1 token be drawn")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}", "Use a probability above 0 and up to 1")


def check_top_k(top_k: int | None, vocabulary: int) -> None:
    """Raises a UserError when more tokens could be drawn than there are."""
    if top_k is not None and top_k > vocabulary:
        raise UserError(f"top_k is {top_k}, and there are {vocabulary} tokens", f"Use at most {vocabulary}")


def kept(logits: Float[Array, "*b v"], sampling: Sampling) -> Float[Array, "*b v"]:
    """The logits divided by the temperature, which is above 0, with those at -inf that must not be drawn."""
    logits = logits.astype(jnp.float32) / sampling.temperature
    vocabulary = logits.shape[-1]
    if sampling.top_k is not None and sampling.top_k < vocabulary:
        # By rank, not by value: of equals the first are kept, and never more than k.
        ids = jax.lax.top_k(logits, sampling.top_k)[1]
        logits = jnp.where(_marked(ids, jnp.ones(ids.shape, bool), vocabulary), logits, -jnp.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ids = jnp.argsort(-logits, axis=-1, stable=True)
        shares = jax.nn.softmax(jnp.take_along_axis(logits, ids, axis=-1), axis=-1)
        # A token is kept while those before it have not reached the probability.
        enough = jnp.cumsum(shares, axis=-1) - shares >= sampling.top_p
        logits = jnp.where(_marked(ids, ~enough, vocabulary), logits, -jnp.inf)
    return logits


def _marked(ids: Int[Array, "*b k"], marks: Bool[Array, "*b k"], vocabulary: int) -> Bool[Array, "*b v"]:
    """The marks of tokens in the order of the vocabulary; False for those that are not among them."""
    return jnp.put_along_axis(
        jnp.zeros((*ids.shape[:-1], vocabulary), bool), ids, marks, axis=-1, inplace=False, mode="clip"
    )


def pick(logits: Float[Array, "b v"], keys: PRNGKeyArray, sampling: Sampling) -> Int[Array, " b"]:
    """The next token of each row; a row's depends on its own key [B] alone."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    drawn = jax.vmap(jax.random.categorical)(keys, kept(logits, sampling))
    return drawn.astype(jnp.int32)


class _Decoding(NamedTuple):
    count: Int[Array, ""]
    last: Int[Array, " b"]
    ended: Bool[Array, " b"]
    ids: Int[Array, "b length"]
    cache: PyTree


def decode(
    step: Step,
    cache: PyTree,
    first: Int[Array, " b"],
    at: Int[Array, " b"],
    *,
    length: int,
    keys: PRNGKeyArray,
    sampling: Sampling = Sampling(),
    eos_id: int | None = None,
    pad_id: int = 0,
) -> Int[Array, "b length"]:
    """Up to `length` tokens of each row, fewer where it ends; the loop ends when all have ended.

    Args:
        cache: of the tokens before; that of `first` is written (again) at its position.
        first: the last token of each row's prompt.
        at: its position.
        keys: one for each row; token i of a row is drawn with its key folded with i, whatever else is in the batch.
        eos_id: ends a row, and is the last token of it; None for rows that do not end.
        pad_id: what follows.
    """

    def going_on(state: _Decoding) -> Bool[Array, ""]:
        return (state.count < length) & ~state.ended.all()

    def next_token(state: _Decoding) -> _Decoding:
        logits, cache = step(state.last, at + state.count, state.cache)
        ids = pick(logits, jax.vmap(jax.random.fold_in, (0, None))(keys, state.count), sampling)
        ids = jnp.where(state.ended, pad_id, ids)
        ended = state.ended if eos_id is None else state.ended | (ids == eos_id)
        written = jax.lax.dynamic_update_slice_in_dim(state.ids, ids[:, None], state.count, axis=1)
        return _Decoding(state.count + 1, ids, ended, written, cache)

    rows = first.shape[0]
    empty = jnp.full((rows, length), pad_id, jnp.int32)
    start = _Decoding(jnp.int32(0), first.astype(jnp.int32), jnp.zeros(rows, bool), empty, cache)
    return jax.lax.while_loop(going_on, next_token, start).ids


class _Beams(NamedTuple):
    count: Int[Array, ""]
    ids: Int[Array, "b beams length"]
    scores: Float[Array, "b beams"]  # logarithms of probabilities
    ended_ids: Int[Array, "b beams length"]
    ended_scores: Float[Array, "b beams"]  # with the length penalty
    cache: PyTree


def length_penalty(length: Float[Array, ""] | float, alpha: float, scale: str = "gnmt") -> Float[Array, ""] | float:
    """What the logarithm of a probability is divided by: ((5 + length) / 6)^alpha, "Google's neural machine
    translation system" (arXiv:1609.08144), equation 14, or length^alpha ("mean", as transformers has it)."""
    return ((5.0 + length) / 6.0) ** alpha if scale == "gnmt" else length**alpha


def beam_search(
    step: Step,
    cache: PyTree,
    first: Int[Array, " b"],
    at: Int[Array, " b"],
    *,
    length: int,
    beams: int,
    alpha: float = 0.0,
    penalty: str = "gnmt",
    eos_id: int,
    pad_id: int = 0,
) -> tuple[Int[Array, "b beams length"], Float[Array, "b beams"]]:
    """The most probable continuations of each row that a search with `beams` of them finds, best first.

    A continuation that ends leaves the beam and is kept among the best ended ones; 2 x beams candidates are looked at,
    so that as many always go on. The search ends when no row's beam can still overtake its worst kept ending. What has
    not ended after `length` tokens counts as it is.

    Args:
        cache: of the tokens before, with the rows as its axis 1 (layers first); it is repeated for the beams.
        first, at: see `decode`.
        alpha: strength of the length penalty, 0 for none; the length is counted with the end.
        penalty: see `length_penalty`.

    Returns:
        Tokens, with `pad_id` after the end, and scores: logarithms of probabilities over the length penalty.
    """
    if beams < 1:
        raise UserError(f"A search with {beams} beams finds nothing", "Use at least 1")
    rows, many = first.shape[0], first.shape[0] * beams
    cache = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=1), cache)
    first, at = (jnp.repeat(x.astype(jnp.int32), beams) for x in (first, at))
    # The beams of a row begin alike: only the first of them counts.
    scores = jnp.tile(jnp.where(jnp.arange(beams) == 0, 0.0, _LOW), (rows, 1))
    empty = jnp.full((rows, beams, length), pad_id, jnp.int32)
    start = _Beams(jnp.int32(0), empty, scores, empty, jnp.full((rows, beams), _LOW), cache)

    def penalised(scores: Array, count: Array) -> Array:
        return scores / length_penalty(count.astype(jnp.float32), alpha, penalty)

    def going_on(state: _Beams) -> Bool[Array, ""]:
        # The best that can become of a beam: no further loss, at the length at which a penalty weighs least on it.
        furthest = jnp.where(alpha > 0, jnp.float32(length), (state.count + 1).astype(jnp.float32))
        best = state.scores[:, 0] / length_penalty(furthest, alpha, penalty)
        return (state.count < length) & ~(state.ended_scores[:, -1] >= best).all()

    def grown(state: _Beams) -> _Beams:
        column = jax.lax.dynamic_index_in_dim(state.ids, jnp.maximum(state.count - 1, 0), 2, keepdims=False)
        last = jnp.where(state.count == 0, first, column.reshape(many))
        logits, cache = step(last, at + state.count, state.cache)
        vocabulary = logits.shape[-1]
        logs = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(rows, beams, vocabulary)
        both = (state.scores[..., None] + logs).reshape(rows, -1)
        found, place = jax.lax.top_k(both, min(2 * beams, both.shape[1]))
        beam, token = place // vocabulary, (place % vocabulary).astype(jnp.int32)
        ids = jnp.take_along_axis(state.ids, beam[..., None], axis=1)
        ids = jax.lax.dynamic_update_slice_in_dim(ids, token[..., None], state.count, axis=2)
        ends = token == eos_id
        # An ending counts where it is among the best `beams` candidates; the others are only there to go on.
        counts = ends & (jnp.arange(found.shape[1]) < beams) & (found > _LOW / 2)
        ended = jnp.concatenate(
            [state.ended_scores, jnp.where(counts, penalised(found, state.count + 1), _LOW)], axis=1
        )
        ended_ids = jnp.concatenate([state.ended_ids, ids], axis=1)
        ended_scores, best = jax.lax.top_k(ended, beams)
        scores, on = jax.lax.top_k(jnp.where(ends, _LOW, found), beams)
        source = (jnp.take_along_axis(beam, on, axis=1) + beams * jnp.arange(rows)[:, None]).reshape(-1)
        return _Beams(
            state.count + 1,
            jnp.take_along_axis(ids, on[..., None], axis=1),
            scores,
            jnp.take_along_axis(ended_ids, best[..., None], axis=1),
            ended_scores,
            jax.tree.map(lambda x: jnp.take(x, source, axis=1), cache),
        )

    end = jax.lax.while_loop(going_on, grown, start)
    # Beams of a search that ended early lie behind what is kept.
    cut = penalised(end.scores, end.count)
    ids, values = jnp.concatenate([end.ended_ids, end.ids], axis=1), jnp.concatenate([end.ended_scores, cut], axis=1)
    scores, order = jax.lax.top_k(values, beams)
    return jnp.take_along_axis(ids, order[..., None], axis=1), scores
