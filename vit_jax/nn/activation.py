"""Activation functions by the names that architectures are described with."""

import functools
from collections.abc import Callable

import flax.linen as nn
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
    "silu": nn.silu,
}


def check_activation(name: str) -> None:
    """Raises a UserError for an unknown activation."""
    if name not in ACTIVATIONS:
        raise UserError(f"Unknown activation {name!r}", nearest(name, ACTIVATIONS))
