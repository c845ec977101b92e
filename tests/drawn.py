"""Variables for a test that needs some, and not those of an initialisation.

Compiling an initialisation takes three times as long as compiling the model's gradients: every parameter is a generator
of random numbers of its own. NumPy draws them for nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.nn.init_shapes import init_shapes


def drawn(init: Callable[..., Any], *args: Any, seed: int = 0, size: float = 1.0) -> Any:
    """What `init(*args)` returns, its matrices drawn by NumPy: scales and variances are one, other vectors zero.

    Args:
        init: as `model.init`, or a task's.
        args: what it takes.
        size: what the deviation of a matrix, one over the root of what it sums over, is multiplied by.
    """
    rng = np.random.default_rng(seed)

    def values(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[-1].key in ("scale", "var"):
            return jnp.ones(leaf.shape, leaf.dtype)
        if leaf.ndim < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        deviation = size * np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray(rng.normal(0, deviation, leaf.shape), leaf.dtype)

    return jax.tree.map_with_path(values, init_shapes(init, *args))
