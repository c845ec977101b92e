"""Initial values as MAE's and MoCo v3's PyTorch codes draw them, where they are not those of the original ViT."""

import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

_HEADS = ("query", "key", "value")


def xavier_redrawn(
    params: PyTree[jax.Array], rng: PRNGKeyArray, *, fused_qkv: bool, tokens: Mapping[str, float]
) -> PyTree[jax.Array]:
    """`params` of a ViT with every kernel, that of the patches too, drawn uniformly by Glorot and Bengio's rule, within
    sqrt(6 / (inputs + outputs)) of 0, and every bias 0; scales of norms and positions stay.

    Args:
        fused_qkv: whether queries, keys and values count as one matrix with three times the outputs, as where one
            layer makes them (MAE); their bound is then sqrt(1/2) of what it is apart.
        tokens: standard deviations of learned tokens by their name, such as {"cls": 0.02}.
    """

    def redraw(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.Array) -> jax.Array:
        names = [part.key for part in path]
        # By name, so that what one parameter gets does not depend on which others there are.
        key = jax.random.fold_in(rng, zlib.crc32("/".join(names).encode()) & 0x7FFFFFFF)
        if names[-1] == "bias":
            return jnp.zeros_like(leaf)
        if names[-1] in tokens:
            return tokens[names[-1]] * jax.random.normal(key, leaf.shape, leaf.dtype)
        if names[-1] != "kernel":
            return leaf
        if len(names) > 1 and names[-2] in _HEADS:
            inputs, outputs = leaf.shape[0], np.prod(leaf.shape[1:]) * (3 if fused_qkv else 1)
        else:
            inputs, outputs = np.prod(leaf.shape[:-1]), leaf.shape[-1]
        bound = float(np.sqrt(6 / (inputs + outputs)))
        return jax.random.uniform(key, leaf.shape, leaf.dtype, -bound, bound)

    return jax.tree.map_with_path(redraw, params)
