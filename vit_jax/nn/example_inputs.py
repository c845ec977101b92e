"""What a model is called with, for who needs its shapes and has no data."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array


def example_inputs(model: nn.Module, image_size: Sequence[int] | None, channels: int = 3) -> tuple[Array, ...]:
    """One example as a model takes it, of zeros: what it says by a method of this name, or else an image.

    Args:
        image_size: height and width in pixels; None for a model that takes none.
        channels: of an image.
    """
    said = getattr(model, "example_inputs", None)
    return (jnp.zeros((1, *image_size, channels)),) if said is None else said(image_size)
