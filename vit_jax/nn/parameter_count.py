"""Counting the parameters of a model without allocating them."""

import flax.linen as nn
import jax

from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.init_shapes import init_shapes


def parameter_count(model: nn.Module, image_size: int | tuple[int, int]) -> int:
    """The number of parameters of a model that takes images, at a size (a side, or height and width, in pixels)."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    inputs = jax.eval_shape(lambda: example_inputs(model, size))
    variables = init_shapes(model.init, jax.random.key(0), *inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
