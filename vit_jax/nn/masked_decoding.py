"""Many tokens at a time, in passes over all of them: how many stay open, which, and the loop (MaskGIT).

Chang et al., "MaskGIT: masked generative image transformer" (arXiv:2202.04200), section 3.2 and its authors' code. In
each pass a model guesses all open tokens at once; those of which it is surest are kept, and the others are open again.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.nn.decode import Sampling, pick
from vit_jax.ranges import Count, NonNegative, Range

# Logits of all tokens, of the tokens so far, which of them are open, and the number of the pass.
Guess = Callable[[Int[Array, "b t"], Bool[Array, "b t"], Int[Array, ""]], Float[Array, "b t v"]]


@dataclasses.dataclass(frozen=True)
class MaskedSampling:
    """How tokens are filled in; the defaults are the paper's.

    Args:
        steps: passes; at most as many as there are tokens.
        temperature: see `vit_jax.nn.decode.Sampling`, like `top_k` and `top_p`.
        choice_temperature: what multiplies the Gumbel noise on the logarithm of a guess's probability, by which it is
            kept or not; it falls linearly to zero in the last pass. 0 always keeps the surest.
    """

    steps: Count = 8
    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: Annotated[float, Range(0, 1, open_low=True)] | None = None
    choice_temperature: NonNegative = 4.5


class Filled(NamedTuple):
    """Tokens, and in which pass each of them was kept: from 0, and -1 for what was there before."""

    tokens: Int[Array, "b t"]
    passes: Int[Array, "b t"]


def open_counts(total: int, steps: int) -> Int[np.ndarray, " steps"]:
    """Tokens that are still open after each pass, if there were so many at first: floor(total cos(pi/2 t)) with t =
    1 / steps, ..., 1, but fewer than before, and then at least 1 until the last pass; 0 after that.

    In the authors' code that lower bound holds for the last pass too, where it makes no difference.
    """
    left, found = total, []
    for step in range(1, steps + 1):
        wanted = math.floor(total * math.cos(math.pi / 2 * step / steps))
        left = 0 if step == steps or not left else max(1, min(left - 1, wanted))
        found.append(left)
    return np.array(found, np.int32)


def check_steps(steps: int, tokens: int) -> None:
    """Raises a UserError unless so many passes can fill so many tokens."""
    if not 1 <= steps <= tokens:
        raise UserError(f"{steps} passes cannot fill {tokens} tokens", f"Use from 1 to {tokens} steps")


def stays_open(
    confidence: Float[Array, "b t"], open_: Bool[Array, "b t"], count: Int[Array, " b"]
) -> Bool[Array, "b t"]:
    """The `count` open tokens of least confidence in each row; of equals the first ones."""
    order = jnp.argsort(jnp.where(open_, confidence, jnp.inf), axis=1, stable=True)
    rank = jnp.argsort(order, axis=1, stable=True)
    return open_ & (rank < count[:, None])


def fill(
    guess: Guess,
    tokens: Int[Array, "b t"],
    open_: Bool[Array, "b t"],
    keys: PRNGKeyArray,
    sampling: MaskedSampling = MaskedSampling(),
) -> Filled:
    """Fills in the open tokens; a row's depend on its own key [B] alone, and on what `guess` makes of the row.

    Args:
        guess: logits of every token; what stands at open places of its first argument means nothing.
        tokens: what is there, anything where it is open.
        open_: rows may differ in how many are: each has a schedule of its own, in the same number of passes.

    Raises:
        UserError: for more passes than tokens.
    """
    rows, length = tokens.shape
    check_steps(sampling.steps, length)
    choice = Sampling(sampling.temperature, sampling.top_k, sampling.top_p)
    # By how many were open at first: made on the host, since rounding decides here.
    schedule = jnp.asarray(np.stack([open_counts(total, sampling.steps) for total in range(length + 1)]))
    first = open_.sum(axis=1)

    def one_pass(step: Int[Array, ""], state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        tokens, open_, passes = state
        drawing, choosing = jnp.moveaxis(
            jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, step)))(keys), 1, 0
        )
        logits = guess(tokens, open_, step).astype(jnp.float32)
        each = jax.vmap(lambda key: jax.random.split(key, length))(drawing)
        drawn = pick(logits.reshape(rows * length, -1), each.reshape(-1), choice).reshape(rows, length)
        tokens = jnp.where(open_, drawn, tokens)
        sure = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=2)[..., 0]
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (length,)))(choosing)
        heat = sampling.choice_temperature * (1 - (step + 1) / sampling.steps)
        left = stays_open(sure + heat * noise, open_, schedule[first, step])
        return tokens, left, jnp.where(open_ & ~left, step, passes)

    start = (tokens.astype(jnp.int32), open_, jnp.full(tokens.shape, -1, jnp.int32))
    tokens, _, passes = jax.lax.fori_loop(0, sampling.steps, one_pass, start)
    return Filled(tokens, passes)
