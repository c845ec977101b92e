"""A limit for a parameter that is learned, which it can come back from."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def at_most(x: Float[Array, "*s"], limit: float) -> Float[Array, "*s"]:
    """The smaller of the two. Where that is the limit, a gradient reaches `x` only if a step against it makes `x` less.

    It stands for setting the parameter back to its limit after every step, which a loss cannot do. With the gradient of
    `minimum`, a parameter that momentum took past its limit would stay there.
    """
    return jnp.minimum(x, limit)


def _forward(x: Array, limit: float) -> tuple[Array, Array]:
    return jnp.minimum(x, limit), x < limit


def _backward(limit: float, below: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where(below | (gradient > 0), gradient, 0),)


at_most.defvjp(_forward, _backward)
