"""The arrays that `vit_jax.inspection.arrays` works on, taken from the result of `vit_jax.load`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from vit_jax.checkpoints.intermediate import of_images
from vit_jax.checkpoints.load import Loaded
from vit_jax.errors import UserError
from vit_jax.nn.multi_head import MultiHeadAttention
from vit_jax.nn.posemb import SINCOS2D, sincos2d
from vit_jax.nn.style import BlockStyle, Execution


def has_attention(loaded: Loaded) -> bool:
    """Whether `attention_weights` can be had."""
    return hasattr(getattr(getattr(loaded.model, "encoder", None), "style", None), "num_heads")


def attention_weights(loaded: Loaded, images: Float[Array, "B H W 3"]) -> Float[np.ndarray, "L B H T T"]:
    """The attention weights of every layer and head, exactly those of the forward pass, float32.

    Tokens behind the patches, such as prompts, stand between the prefix and the patches here.

    The model is built again with its switch `sow_attention` on; nobody else pays for it. They take 4 L B H T^2 bytes:
    22 MB an image for B/16 at 224 pixels, 0.5 GB for L/16 at 384.

    Args:
        loaded: what `vit_jax.load` gave.
        images: preprocessed, as for `loaded.logits`.

    Raises:
        UserError: for a model without attention, such as a ResNet or an MLP-Mixer.
    """
    if not has_attention(loaded):
        raise UserError(
            f"The model '{_name(loaded)}' has no attention weights to look at", "Use a Vision Transformer's checkpoint"
        )
    model = of_images(loaded.model)
    encoder = model.encoder
    # A scan cannot sow, and only the explicit implementation, which "auto" then takes, has weights to give.
    execution = Execution(dtype=encoder.execution.dtype, sow_attention=True)
    model = model.clone(encoder=encoder.clone(execution=execution))

    tree = sown(model, loaded.params, loaded.model_state, jnp.asarray(images))
    # The names of the blocks are numbered, so that sorted by name they are in order.
    leaves = sorted(
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree["encoder"])
        if any(getattr(key, "key", None) == "attention_weights" for key in path)
    )
    weights = np.stack([np.asarray(leaf) for _, leaf in leaves])
    if behind := getattr(model, "behind", 0):
        before, tokens = encoder.tokens.count, np.arange(weights.shape[-1])
        order = np.concatenate([tokens[:before], tokens[-behind:], tokens[before:-behind]])
        weights = weights[..., order, :][..., order]
    return weights


def pooling_weights(loaded: Loaded, images: Float[Array, "B H W 3"]) -> Float[np.ndarray, "B H T"] | None:
    """What the probe of attention pooling (MAP) attends to; None for a model that pools otherwise.

    T counts the tokens that are pooled: the class token, where there is one, and the patches.
    """
    if getattr(of_images(loaded.model), "pooling", None) != "map" or "pool" not in loaded.params:
        return None
    params, encoder = loaded.params["pool"], loaded.model.encoder
    tokens = loaded.outputs(images)["tokens"].astype(jnp.float32)
    tokens = jnp.concatenate([tokens[:, : int(encoder.tokens.class_token)], tokens[:, encoder.tokens.count :]], axis=1)
    probe = jnp.broadcast_to(params["probe"], (tokens.shape[0], *params["probe"].shape[1:]))
    style = BlockStyle(encoder.style.num_heads, encoder.style.mlp_dim, head_dim=encoder.style.head_dim)
    attention = MultiHeadAttention(style, Execution(sow_attention=True))
    _, sown = attention.apply({"params": params["attention"]}, probe, tokens, train=False, mutable=["intermediates"])
    return np.asarray(sown["intermediates"]["attention_weights"][0][:, :, 0])


def patch_kernel(loaded: Loaded) -> Float[np.ndarray, "ph pw channels width"]:
    """The filters that embed patches of pixels.

    Raises:
        UserError: for a model that embeds no patches of pixels, such as a ResNet or a hybrid.
    """
    kernel = loaded.params.get("encoder", {}).get("embedding", {}).get("kernel")
    if kernel is None or kernel.ndim != 4 or kernel.shape[2] not in (1, 3):
        raise UserError(
            f"The model '{_name(loaded)}' embeds no patches of pixels", "Use a Vision Transformer's checkpoint"
        )
    return np.asarray(kernel)


def position_table(loaded: Loaded) -> Float[np.ndarray, "gh gw width"]:
    """The position embeddings of the patches, learned or fixed.

    Raises:
        UserError: for a model without.
    """
    learned = loaded.params.get("encoder", {}).get("pos_embedding")
    if learned is not None:
        return np.asarray(learned)
    encoder = getattr(loaded.model, "encoder", None)
    dialect = SINCOS2D.get(getattr(getattr(encoder, "positions", None), "posemb", None))
    if dialect is None:
        raise UserError(
            f"The model '{_name(loaded)}' has no position embeddings", "Use a Vision Transformer's checkpoint"
        )
    return sincos2d(patch_grid(loaded), encoder.width, **dialect)


def patch_grid(loaded: Loaded) -> tuple[int, int]:
    """Rows and columns of patches, for images as `loaded.preprocess` makes them.

    Raises:
        UserError: for a model without patches.
    """
    learned = loaded.params.get("encoder", {}).get("pos_embedding")
    if learned is not None:
        return tuple(learned.shape[:2])
    encoder = getattr(loaded.model, "encoder", None)
    if getattr(encoder, "patch_size", None) is None:
        raise UserError(f"The model '{_name(loaded)}' has no patches", "Use a Vision Transformer's checkpoint")
    return encoder.grid(loaded.preprocess.image_size)


def patch_pixels(loaded: Loaded) -> tuple[float, float]:
    """Height and width in pixels of what one patch stands for.

    Raises:
        UserError: for a model without patches.
    """
    return tuple(side / n for side, n in zip(loaded.preprocess.image_size, patch_grid(loaded), strict=True))


@functools.partial(jax.jit, static_argnums=0)
def sown(model: nn.Module, params: PyTree, model_state: PyTree, images: Float[Array, "B H W 3"]) -> PyTree:
    """What the modules of a model sow as "intermediates" in evaluation."""
    variables = {"params": params, **model_state}
    return model.apply(variables, images, train=False, mutable=["intermediates"])[1].get("intermediates", {})


def _name(loaded: Loaded) -> str:
    spec = loaded.metadata.get("model") or {}
    return spec.get("name") or type(loaded.model).__name__
