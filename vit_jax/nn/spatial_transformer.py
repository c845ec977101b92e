"""The places of a map attend to each other and to the tokens of a context, such as a text.

Latent diffusion (arXiv:2112.10752, section 3.3): Transformer blocks within the U-Net.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.block import Block
from vit_jax.nn.conv import GroupNorm
from vit_jax.nn.flops import block_flops, mixing_flops, product_flops
from vit_jax.nn.multi_head import CrossCache, Filled, MultiHeadAttention, cross_style
from vit_jax.nn.style import BlockStyle, Execution
from vit_jax.nn.unet_blocks import UNIFORM, MapStyle

_EPSILON = 1e-6  # of its norm, whatever the residual blocks have
_MLP = 4  # times the width


class SpatialTransformer(nn.Module):
    """A norm, a product, a Transformer block over all places with cross-attention and a GEGLU, a product; added to what
    comes in.

    Parameters, float32: `norm`; `proj_in` and `proj_out`, 1x1 convolutions or dense layers; `block`, a
    `vit_jax.nn.block.Block` whose keys and values of the context have its width.

    Attributes:
        num_heads: of both attentions.
        style: see `MapStyle`; its epsilon is not that of the norm here, which is 1e-6.
        linear: whether `proj_in` and `proj_out` are dense layers (Stable Diffusion 2); the same numbers come out.
    """

    num_heads: int
    style: MapStyle = MapStyle()
    linear: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], context: Float[Array, "b l d"] | Mapping[str, Any] | None
    ) -> Float[Array, "b h w c"]:
        """The map after the block.

        Args:
            context: tokens that all places attend to; or their keys and values, see `context_keys_values`.

        Raises:
            UserError: for heads that do not divide the channels, or no context.
        """
        batch, height, width, channels = x.shape
        if context is None:
            raise UserError("This network attends to a context, and was given none", "Give tokens of a text")
        if isinstance(context, Mapping):
            memory, cache = None, CrossCache(None, context["block"]["cross"])
        else:
            memory, cache = context, None
        h = GroupNorm(self.style.groups, _EPSILON, self.style.dtype, name="norm")(x)
        h = self._product(h, "proj_in", UNIFORM).reshape(batch, height * width, channels)
        block = Block(transformer_style(self.num_heads, channels), Execution(self.style.dtype), name="block")
        h, _ = block(h, cache, memory=memory)
        h = self._product(h.reshape(batch, height, width, channels), "proj_out", nn.initializers.zeros)
        return x.astype(h.dtype) + h

    def _product(self, x: Array, name: str, init: nn.initializers.Initializer) -> Array:
        channels = x.shape[-1]
        if self.linear:
            return nn.Dense(channels, dtype=self.style.dtype, kernel_init=init, name=name)(x)
        return self.style.conv(channels, 1, name, zero=name == "proj_out")(x)

    def flops(self, channels: int, places: float, context: tuple[int, int]) -> float:
        """Of one map of so many channels and places, and a context [L, D] that is read each time."""
        tokens, width = context
        cross = product_flops(places, channels, 2 * channels) + product_flops(tokens, width, 2 * channels)
        cross += mixing_flops(places, tokens, channels)
        own = block_flops(places, channels, _MLP * channels, mlp_matrices=3)
        return own + cross + product_flops(places, channels, 2 * channels)


def transformer_style(num_heads: int, width: int) -> BlockStyle:
    """What the block computes: no biases on queries, keys and values, and an MLP of 4 times the width."""
    return BlockStyle(
        num_heads,
        _MLP * width,
        norm_epsilon=1e-5,
        activation="gelu_exact",
        gated=True,
        biases=("out", "fc1", "fc2"),
        cross="plain",
    )


def context_keys_values(params: Mapping[str, Any], context: Float[Array, "b l d"], dtype: Any) -> dict[str, Any]:
    """Keys and values of a context for every cross-attention below some parameters, by the names of the modules.

    They do not depend on the map: who calls a network many times with one context computes them once.

    Args:
        params: of a network.
        context: tokens.
        dtype: of the computation.

    Returns:
        Nested like the parameters; where those have `cross`, a `Filled`.

    Raises:
        UserError: for tokens of another width than the keys are made of, and for what is no tokens.
    """
    found: dict[str, Any] = {}
    for name, value in params.items():
        if name == "cross":
            found[name] = _filled(value, context, dtype)
        elif isinstance(value, Mapping) and (inner := context_keys_values(value, context, dtype)):
            found[name] = inner
    return found


def _filled(params: Mapping[str, Any], context: Array, dtype: Any) -> Filled:
    """By the layer itself, with a query of zeros that nothing is made of."""
    wanted, heads, _ = params["key"]["kernel"].shape
    check_context(context, wanted)
    width = params["out"]["kernel"].shape[-1]
    layer = MultiHeadAttention(cross_style(transformer_style(heads, width)), Execution(dtype), parent=None)
    empty = jax.ShapeDtypeStruct((), jnp.dtype(dtype))
    query = jnp.zeros((len(context), 1, width), dtype)
    _, filled = layer.apply({"params": params}, query, context, Filled(empty, empty), train=False)
    return filled


def check_context(context: Float[Array, "b l d"], width: int) -> None:
    """Raises a UserError for tokens of another width, and for what is no tokens, such as classes."""
    if context.ndim != 3:
        raise UserError(
            "This U-Net attends to tokens, such as a text's, and has no table of classes to make them of",
            "Set config.task.conditional, with data that name classes, or use the model unet",
        )
    if context.shape[-1] != width:
        raise UserError(
            f"The U-Net attends to tokens of width {width}, and the text's are {context.shape[-1]} wide",
            "Use the text tower that it was trained with",
        )
