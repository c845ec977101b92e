"""What tasks have in common that embed two views of each image by a trunk and a head beside it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.tasks import Batch, Variables, in_training


def views_of(batch: Batch) -> Float[Array, "b 2 h w c"]:
    """The two views of each image.

    Raises:
        UserError: when there is one view, or one image: its views would have no negatives.
    """
    images = batch["image"]
    if images.ndim != 5 or images.shape[1] != 2:
        raise UserError(
            "A contrastive loss compares two views of each image, and the transform gives one",
            "Set config.data.transform.name=two_views",
        )
    if images.shape[0] < 2:
        raise UserError(
            "A contrastive loss over one image has no negatives", "Set config.batch_size to 2 or more, rather 256"
        )
    return images


def init_heads(
    rng: PRNGKeyArray, model: nn.Module, heads: Mapping[str, nn.Module], images: Float[Array, "b h w c"]
) -> Variables:
    """Fresh variables of the model and, beside `encoder`, of heads of which each takes what the one before gives."""
    keys = jax.random.split(rng, len(heads) + 1)
    variables = dict(model.init({"params": keys[0]}, images, train=False))
    x = jax.eval_shape(lambda v, i: model.apply(v, i, train=False)["features"], variables, images)
    for key, (name, head) in zip(keys[1:], heads.items(), strict=True):
        made = head.init(key, jnp.zeros((1, x.shape[-1]), x.dtype), train=False)
        x = jax.eval_shape(lambda v, x, head=head: head.apply(v, x, train=False), made, x)
        for collection, tree in made.items():
            variables[collection] = {**variables.get(collection, {}), name: tree}
    return {"params": variables.pop("params"), "model_state": variables}


def embed(
    model: nn.Module,
    heads: Mapping[str, nn.Module],
    params: Any,
    state: Mapping[str, Any],
    images: Float[Array, "b h w c"],
    rng: PRNGKeyArray,
) -> tuple[Float[Array, "b d"], dict[str, Any]]:
    """Features in training through all heads, and the new state of model and heads."""
    outputs, state = in_training(model, params, state, jax.random.split(rng), images)
    x, state = outputs["features"], dict(state)
    for name, head in heads.items():
        own = {collection: tree[name] for collection, tree in state.items() if name in tree}
        x, new = head.apply({"params": params[name], **own}, x, train=True, mutable=list(own))
        state |= {collection: {**state[collection], name: tree} for collection, tree in new.items()}
    return x, state
