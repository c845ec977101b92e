"""Smaller weights for inference: in bfloat16, or in int8 with a scale for each output.

Only the weights change. They become bfloat16 again inside the program, where the compiler may fuse that into the
products; activations and products stay bfloat16, so that int8 saves memory and reading, not arithmetic. google/qwix is
the library for more (calibrated activations, int8 products); these lines measure the simplest form without it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

_SCALE, _ROUNDED = "scale", "rounded"


def small(params: PyTree, weights: str) -> PyTree:
    """The parameters with their matrices, which are named "kernel", as "float32", "bfloat16" or "int8"."""

    def change(path: tuple, x: Array) -> Any:
        if weights == "float32" or path[-1].key != "kernel":
            return x
        if weights == "bfloat16":
            return x.astype(jnp.bfloat16)
        # Queries, keys and values are [D, heads, d]: each head's features are outputs of their own.
        by_head = x.ndim == 3 and path[-2].key in ("query", "key", "value")
        return quantized(x, 1 if by_head else x.ndim - 1)

    return jax.tree.map_with_path(change, params)


def quantized(kernel: Float[Array, "*shape"], inputs: int) -> dict[str, Array]:
    """int8 between -127 and 127, symmetric, and a float32 scale for each output: the first axes are the inputs."""
    scale = jnp.max(jnp.abs(kernel), axis=tuple(range(inputs)), keepdims=True) / 127
    rounded = jnp.round(kernel / jnp.where(scale == 0, 1, scale)).astype(jnp.int8)
    return {_ROUNDED: rounded, _SCALE: scale.astype(jnp.float32)}


def usable(params: PyTree) -> PyTree:
    """What a model takes, from what `small` gave; traceable."""

    def restored(leaf: Any) -> Any:
        if isinstance(leaf, dict):
            return leaf[_ROUNDED].astype(jnp.bfloat16) * leaf[_SCALE].astype(jnp.bfloat16)
        return leaf

    return jax.tree.map(restored, params, is_leaf=lambda x: isinstance(x, dict) and set(x) == {_ROUNDED, _SCALE})


def size(params: PyTree) -> int:
    """Bytes of all leaves."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
