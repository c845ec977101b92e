"""The attention maps of layers of linear attention, which never computes them (EfficientViT)."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from vit_jax.checkpoints.load import Loaded
from vit_jax.inspection.extract import sown
from vit_jax.inspection.layers import Layer, centres, nearest
from vit_jax.nn.linear_attention import linear_weights


def has_linear_attention(loaded: Loaded) -> bool:
    """Whether `linear_layers` can be had."""
    if loaded.model is None or loaded.preprocess is None or not hasattr(loaded.model, "encoder"):
        return False
    images = jnp.zeros((1, *loaded.preprocess.image_size, 3))
    tree = jax.eval_shape(lambda: sown(loaded.model, loaded.params, loaded.model_state, images))
    return next(_linear(tree.get("encoder", {})), None) is not None


def linear_layers(
    loaded: Loaded, images: Float[Array, "B H W 3"], at: tuple[float, float] | None = None
) -> list[Layer]:
    """The layers of linear attention of an EfficientViT, as the quadratic form has them that it never computes.

    Heads are those of the map itself, then those of each scale that is gathered.

    Args:
        at: a pixel, whose place is the only query then; None for all places, which takes the square of their number.
    """
    size, found, encoder = images.shape[1:3], [], loaded.model.encoder
    own = {"epsilon": encoder.attention_epsilon} if hasattr(encoder, "attention_epsilon") else {}
    tree = sown(loaded.model, loaded.params, loaded.model_state, jnp.asarray(images))
    for name, q, k in _linear(tree.get("encoder", {})):
        pixels = next(s for s in (2**i for i in range(12)) if -(-size[0] // s) * -(-size[1] // s) <= k.shape[1])
        grid = tuple(-(-side // pixels) for side in size)
        keys = centres(grid, pixels)
        queries = keys if at is None else keys[[nearest(keys, at)]]
        q = q if at is None else q[:, [nearest(keys, at)]]
        weights = np.asarray(linear_weights(jnp.asarray(q), jnp.asarray(k), **own))
        found.append(Layer(name, weights[:, None], queries[None, None], keys[None, None], grid, pixels))
    return found


def _linear(tree: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, PyTree, PyTree]]:
    """Name, queries and keys of every layer that sows them, in order."""
    if "queries" in tree:
        yield name, tree["queries"][0], tree["keys"][0]
    for key in sorted(tree):
        if isinstance(tree[key], Mapping):
            yield from _linear(tree[key], f"{name}/{key}" if name else key)
