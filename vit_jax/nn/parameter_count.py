"""Counting the parameters of a model without allocating them."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def parameter_count(model: nn.Module, image_size: int | tuple[int, int]) -> int:
    """The number of parameters of an image model at an image size (a side, or height and width, in pixels)."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
