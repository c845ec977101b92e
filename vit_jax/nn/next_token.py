"""The loss of a language model: how surprising each token of a text is, given those before it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


def next_token_losses(
    logits: Float[Array, "b t v"], ids: Int[Array, "b t"], counted: Shaped[Array, "b t"] | None = None
) -> tuple[Float[Array, "b s"], Float[Array, "b s"]]:
    """Of each token but the first what it cost, in nats, and whether it counts; s = t - 1.

    Args:
        logits: after each token, of the next; the last ones guess what is not there.
        counted: 1 where a token is to be guessed, 0 for padding; None for all.

    Returns:
        the losses, 0 where they do not count, and 1.0 where they do.
    """
    weights = jnp.ones(ids.shape) if counted is None else counted.astype(jnp.float32)
    # The last logits stay in the array: without them its rows would not lie one after the other.
    target = jnp.roll(ids, -1, axis=1)[..., None]
    logits = logits.astype(jnp.float32)
    shifted = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    # A sum over the vocabulary, since the gradient of looking the target up would be written out once more.
    picked = jnp.where(jnp.arange(logits.shape[-1]) == target, shifted, 0).sum(axis=-1)
    losses = jnp.log(jnp.exp(shifted).sum(axis=-1)) - picked
    weights = weights[:, 1:]
    return losses[:, :-1] * weights, weights
