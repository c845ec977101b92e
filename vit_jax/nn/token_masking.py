"""Which tokens of a text a masked language model has to guess, and what stands in their place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

_MASKED, _REPLACED = 0.8, 0.1  # of the chosen tokens; the rest stays as it is


class Corrupted(NamedTuple):
    """A text in which some tokens were chosen to be guessed.

    Args:
        ids: the text as the model reads it.
        places: where the chosen tokens are, P of them at most, in no order.
        targets: what stood there.
        chosen: 1 for those of the P that are, 0 for what only fills them up.
    """

    ids: Int[Array, "*b length"]
    places: Int[Array, "*b most"]
    targets: Int[Array, "*b most"]
    chosen: Float[Array, "*b most"]


def corrupted(
    keys: PRNGKeyArray,
    ids: Int[Array, "b length"],
    candidates: Bool[Array, "b length"],
    *,
    share: float,
    most: int,
    mask_id: int,
    vocab_size: int,
    starts: Bool[Array, "b length"] | None = None,
) -> Corrupted:
    """Chooses tokens as BERT does (arXiv:1810.04805, section 3.1, appendix A.1); traceable.

    A `share` of the candidates is chosen. Of them 80 % become the mask, 10 % a random id of the whole vocabulary, and
    10 % stay. The share is right in expectation for a text of any length: the authors' code rounds the number of each
    text, which at 48 tokens is 14.6 % and at 49 is 14.3 %. As there, at least one token is chosen where there is one.

    Args:
        keys: [B], one for each text, on which its choice depends and on nothing else.
        candidates: what may be chosen: no special tokens and no padding.
        share: in (0, 1].
        most: P, tokens that can be chosen in a text; a number of its own, so that shapes are static.
        mask_id: the id of the mask.
        vocab_size: number of ids.
        starts: which tokens start a word. Then words are chosen as a whole; None to choose token by token.
    """
    most = min(most, ids.shape[1])

    def of_text(key: PRNGKeyArray, ids: Array, candidates: Array, starts: Array) -> Corrupted:
        length = ids.shape[0]
        # All draws at once, since making a generator costs the compiler more than all that is done with its numbers.
        drawn, last, kind, replacement = jnp.split(
            jax.random.uniform(key, (length + 1 + 2 * most,)), (length, length + 1, length + 1 + most)
        )
        # Words in random order: all tokens of one draw the same number, and a stable sort keeps them together.
        word = jnp.cumsum(starts) - starts[0]
        order = jnp.argsort(jnp.where(candidates, drawn[word], jnp.inf), stable=True)
        word, there = word[order], candidates[order]
        sizes = jnp.zeros(length, jnp.int32).at[word].add(there)
        place = jnp.arange(length)
        first = jnp.concatenate([jnp.ones(1, bool), word[1:] != word[:-1]])
        begin = jax.lax.cummax(jnp.where(first, place, 0))
        size = sizes[word]
        # The word on which the share ends is taken as often as makes the share right in expectation.
        wanted = jnp.maximum(share * candidates.sum(), 1.0)
        taken = there & (begin + last * size < wanted) & (begin + size <= most)
        places, taken = order[:most], taken[:most]
        targets = ids[places]
        random_ids = jnp.minimum(replacement * vocab_size, vocab_size - 1).astype(ids.dtype)
        seen = jnp.where(kind < _MASKED, mask_id, jnp.where(kind < _MASKED + _REPLACED, random_ids, targets))
        return Corrupted(
            ids.at[places].set(jnp.where(taken, seen, targets)), places, targets, taken.astype(jnp.float32)
        )

    starts = jnp.ones(ids.shape, bool) if starts is None else starts
    return jax.vmap(of_text)(keys, ids, candidates, starts)
