"""A classifier of images with noise: the first half of a U-Net, which is told the time (ADM, arXiv:2105.05233, section
4 and appendix H)."""

import math
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vit_jax.errors import UserError
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.pool import MeanQueryPool
from vit_jax.nn.unet_blocks import MapStyle
from vit_jax.nn.unet_levels import Blocks, UNetLevels, check_levels
from vit_jax.ranges import Count, Decay, Natural, Positive


class UNetClassifier(UNetLevels):
    """Classes of images with noise.

    Parameters, float32: `conv_in`, `time`, `down_0`, ..., `middle`, see `vit_jax.nn.unet_levels.UNetLevels`;
    `norm_out`; `pool`, whose positions belong to one size of images.

    Attributes:
        num_classes: K.

    The others are those of `vit_jax.nn.unet_levels.UNetLevels`.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w inputs"], times: Shaped[Array, " b"] | None = None, *, train: bool = False
    ) -> dict[str, Array]:
        """`logits` [B, K] and `features` [B, D], the mean of the last map, float32.

        Args:
            x: images or latents with noise.
            times: timesteps, from 0 on; None for 0, images as they are.
            train: whether dropout is applied, from the stream "dropout".

        Raises:
            UserError: for sides that do not divide as often as there are levels, or of another size than the positions.
        """
        self.check_size(x.shape[1:3])
        style = self.blocks.style
        time = self.embedded(jnp.zeros(len(x)) if times is None else times)
        x = style.conv(self.channels, 3, "conv_in")(x.astype(style.dtype))
        _, x = self.way_down(x, time, train=train)
        x = nn.silu(style.norm("norm_out")(x))
        width = x.shape[-1]
        pool = MeanQueryPool(self.num_classes, width // (self.blocks.head_width or width), style.dtype, name="pool")
        features = x.astype(jnp.float32).mean(axis=(1, 2))
        return {"features": features, "logits": pool(x).astype(jnp.float32)}

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, ...]:
        """See `vit_jax.nn.example_inputs`."""
        return (jnp.zeros((1, *(image_size or (self.stride, self.stride)), self.inputs)), jnp.zeros(1, jnp.int32))

    def flops(self, image_size: Sequence[int]) -> float:
        """Of one image, see `vit_jax.nn.flops`; without the pool's products of attention."""
        down, skips = self.down_flops(math.prod(image_size))
        width, places = skips[-1]
        return down + product_flops(places + 1, width, 2 * width) + product_flops(1, width, width + self.num_classes)


def build(
    *,
    num_classes: Count,
    inputs: Count = 3,
    channels: Count = 128,
    multipliers: Sequence[Count] = (1, 2, 3, 4),
    num_blocks: Count = 2,
    attention_levels: Sequence[Natural] = (1, 2, 3),
    head_width: Count = 64,
    dropout_rate: Decay = 0.0,
    norm_groups: Count = 32,
    epsilon: Positive = 1e-5,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> UNetClassifier:
    """The classifier from values that JSON can hold; the defaults are ADM's for 64 pixels, of fewer blocks.

    Args:
        num_classes: the task's to say, like `inputs`.
        channels: see `vit_jax.nn.unet_levels.UNetLevels`, like `multipliers`, `num_blocks` and `attention_levels`.
        head_width: channels of a head, of the pool's too.
        dropout_rate: of residual blocks.
        norm_groups: channels are normalised in so many groups.
        epsilon: of the norms.
        dtype: compute dtype by name; parameters and norms are float32.

    Raises:
        UserError: for levels that are not there, or channels that do not divide.
    """
    check_levels(multipliers, attention_levels, channels, norm_groups)
    if channels * multipliers[-1] % head_width:
        raise UserError(
            f"{channels * multipliers[-1]} channels do not divide into heads of {head_width}", "Change head_width"
        )
    blocks = Blocks(MapStyle(norm_groups, epsilon, compute_dtype(dtype)), True, dropout_rate, head_width, True, True)
    return UNetClassifier(
        inputs, channels, tuple(multipliers), num_blocks, tuple(attention_levels), False, 0, blocks=blocks,
        num_classes=num_classes,
    )  # fmt: skip
