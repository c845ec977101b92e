"""How HART draws an image (arXiv:2410.10812): codes scale by scale, and with those of the last what they leave."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from vit_jax.models.hart import HART
from vit_jax.models.mar import masked_counts
from vit_jax.nn.diffusion_head import HeadSteps


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How an image is drawn.

    Args:
        guidance: g of (1 + t) c - t u, of logits and of the noise that the head sees, where t grows from 0 in the first
            scale to g in the last but one, and is the same in the last as before it; 0 for none.
        passes: in so many the last scale is filled in, as MAR's images are, see `vit_jax.models.mar.masked_counts`.
        head_steps: of the diffusion of what codes leave; 0 to draw codes alone.
    """

    guidance: float = 4.5
    passes: int = 1
    head_steps: int = 8


@dataclasses.dataclass(frozen=True)
class Codes:
    """What of a tokenizer is needed.

    Args:
        added: of the sum of all scales so far [B, H, W, C], the indices of a scale but the last [B, h, w], and its
            number: the new sum, and what the next scale sees of it [B, n, C].
        embed: the codes of indices of the last scale.
    """

    added: Callable[[Array, Array, int], tuple[Array, Array]]
    embed: Callable[[Array], Array]


def draw(
    model: HART,
    variables: PyTree,
    codes: Codes,
    what: Array,
    nothing: Array,
    positions: Int[Array, "b l"] | None,
    order: Int[Array, "b n"],
    pick: Callable[[Float[Array, "b t v"], int, int], Int[Array, "b t"]],
    noise: Callable[[int, int, Int[Array, ""] | None], Float[Array, "b n c"]],
    how: Drawing,
) -> Float[Array, "b h w c"]:
    """Latents of what is asked for.

    Args:
        variables: as `model.apply` takes them.
        what: classes or texts, see `HART`.
        nothing: the same for no class or no text.
        positions: of texts; where there is no text they are 0.
        order: for each image a permutation of the places of the last scale, of which the last ones come first.
        pick: the indices that are drawn of logits, in a scale and in a pass over it.
        noise: of a pass over the last scale, for so many places of an image: that from which they are made (None), or
            that of step n.
        how: see `Drawing`.
    """
    rows, last = len(what), len(model.grids) - 1
    guided = how.guidance != 0
    call = functools.partial(model.apply, variables)

    def twice(x: Array) -> Array:
        return jnp.concatenate([x, x]) if guided else x

    def combined(logits: Float[Array, "twice t v"], t: float) -> Float[Array, "b t v"]:
        return (1 + t) * logits[:rows] - t * logits[rows:] if guided else logits

    asked = call(jnp.concatenate([what, nothing]) if guided else what, method="embed")
    if guided and positions is not None:
        positions = jnp.concatenate([positions, jnp.zeros_like(positions)])
    cache, at = model.new_cache(len(asked)), 0
    summed, inputs, t = jnp.zeros((rows, *model.grids[-1], model.latent_width)), None, 0.0

    def further(inputs: Array | None, places: Array | None, scale: int) -> tuple[Array, Array]:
        nonlocal cache, at
        logits, hidden, cache = call(asked, positions, inputs, places, scale, at, cache, method="further")
        at += model.asked.length if inputs is None else inputs.shape[1]
        return combined(logits, t), hidden

    for scale, grid in enumerate(model.grids[:-1]):
        t = how.guidance * scale / last
        logits, _ = further(inputs, None, scale)
        summed, inputs = codes.added(summed, pick(logits, scale, 0).reshape(rows, *grid), scale)
        inputs = twice(inputs)

    tokens = jnp.zeros((rows, order.shape[1], model.latent_width))
    masked = masked_counts(order.shape[1], how.passes)
    for i, (before, after) in enumerate(itertools.pairwise(masked)):
        places = order[:, after:before]
        chosen = twice(places)
        logits, hidden = further(jnp.take_along_axis(inputs, chosen[..., None], axis=1), chosen, last)
        found = codes.embed(pick(logits, last, i)).astype(jnp.float32)
        if how.head_steps:
            z = call(hidden, twice(found), method="conditions")
            found = found + _remainders(call, z, rows, functools.partial(noise, i, int(before - after)), t, how)
        tokens = tokens.at[jnp.arange(rows)[:, None], places].set(found)
    return summed + tokens.reshape(summed.shape)


def _remainders(
    call: Callable[..., Any],
    z: Float[Array, "twice n d"],
    rows: int,
    noise: Callable[..., Array],
    t: float,
    how: Drawing,
) -> Float[Array, "b n c"]:
    """What codes leave, drawn by the head."""
    conditional, unconditional = z[:rows], z[rows:]

    def flat(x: Float[Array, "b n c"]) -> Float[Array, "bn c"]:
        return x.reshape(-1, x.shape[-1])

    drawn = call(
        flat(conditional), flat(noise(None)), lambda n: flat(noise(n)), HeadSteps(how.head_steps, 1 + t),
        unconditional=flat(unconditional) if len(unconditional) else None,
        method=lambda model, *args, **kwargs: model.residual.sample(*args, **kwargs),
    )  # fmt: skip
    return drawn.reshape(rows, -1, drawn.shape[-1])
