"""Initial values as GPT's and BERT's codes draw them: normal ones of one standard deviation, whatever the shape."""

import math
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

# Those that end a residual branch.
_RESIDUAL = ("attention/out/kernel", "mlp/fc2/kernel")


def normal_redrawn(
    params: PyTree[jax.Array],
    rng: PRNGKeyArray,
    *,
    stddev: float = 0.02,
    truncated: bool = False,
    residual_depth: int | None = None,
) -> PyTree[jax.Array]:
    """`params` with every kernel and embedding drawn anew, and every bias 0; scales of norms stay.

    Args:
        stddev: standard deviation; 0.02 is that of GPT-1 (section 4.1), GPT-2 and BERT.
        truncated: no value is further than two of `stddev` from 0, as BERT's code draws them. The standard deviation of
            what is left is then 0.88 of it, as there.
        residual_depth: depth of the model where the kernels that end a residual branch are divided by the square root
            of the number of branches, 2 a block (GPT-2, section 2.3); None where they are as the others.
    """

    def redraw(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.Array) -> jax.Array:
        name = "/".join(part.key for part in path)
        last = name.rsplit("/", 1)[-1]
        if last == "bias":
            return jnp.zeros_like(leaf)
        if last != "kernel" and not last.endswith("embedding"):
            return leaf
        # By name, so that what one parameter gets does not depend on which others there are.
        key = jax.random.fold_in(rng, zlib.crc32(name.encode()) & 0x7FFFFFFF)
        draw = jax.random.truncated_normal(key, -2, 2, leaf.shape) if truncated else jax.random.normal(key, leaf.shape)
        ends = residual_depth is not None and name.endswith(_RESIDUAL)
        return draw * (stddev / math.sqrt(2 * residual_depth) if ends else stddev)

    return jax.tree.map_with_path(redraw, params)
