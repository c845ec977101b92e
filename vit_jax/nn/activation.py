"""Activation functions by the names that architectures are described with."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.spelling import nearest

Activation = Callable[[Float[Array, "*b"]], Float[Array, "*b"]]


def quick_gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x sigmoid(1.702 x), the approximation of OpenAI's CLIP; off by up to 0.02 from GELU."""
    return x * nn.sigmoid(1.702 * x)


# The two GELUs differ by up to 5e-4: weights need the one that they were trained with. The original ViT has the tanh
# approximation, most PyTorch code the exact one.
ACTIVATIONS: dict[str, Activation] = {
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu_exact": functools.partial(nn.gelu, approximate=False),
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
    "hard_swish": nn.hard_swish,
    "silu": nn.silu,
}


def check_activation(name: str) -> None:
    """Raises a UserError for an unknown activation."""
    if name not in ACTIVATIONS:
        raise UserError(f"Unknown activation {name!r}", nearest(name, ACTIVATIONS))


def recomputed(activation: Activation) -> Activation:
    """The activation, computed again in the backward pass, which is cheaper than keeping its steps in memory.

    As `jax.checkpoint` does it, but the barrier that keeps the compiler from keeping them after all is around the input
    alone, not around the gradient: that stays part of the product that makes it.
    """

    @jax.custom_vjp
    def run(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return activation(x)

    def backward(x: Float[Array, "*b"], gradient: Float[Array, "*b"]) -> tuple[Float[Array, "*b"]]:
        return jax.vjp(activation, jax.lax.optimization_barrier(x))[1](gradient)

    run.defvjp(lambda x: (activation(x), x), backward)
    return run
