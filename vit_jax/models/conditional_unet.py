"""The U-Net of latent diffusion: latents with noise, the time and a context, such as a text, to what a sampler needs.

"High-resolution image synthesis with latent diffusion models" (arXiv:2112.10752, section 3.3); with the sizes of Stable
Diffusion 1 and 2.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from vit_jax.errors import UserError
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.spatial_transformer import SpatialTransformer, check_context, context_keys_values
from vit_jax.nn.time_embedding import ClassEmbedding
from vit_jax.nn.unet_blocks import MapStyle
from vit_jax.nn.unet_levels import Blocks, Context, UNetLevels, check_levels
from vit_jax.ranges import Count, Decay, Natural, Positive

TOKENS = 77  # of a text, as CLIP reads them
_CLASSES = "classes"


@dataclasses.dataclass(frozen=True)
class ConditionalBlocks(Blocks):
    """Those of a U-Net that attends to a context.

    Args:
        heads: of each level's attention.
        linear: see `SpatialTransformer`.
        context_width: of the tokens that are attended to.
        level: which one the blocks are of.
    """

    heads: Sequence[int] = (8, 8, 8, 8)
    linear: bool = False
    context_width: int = 768
    level: int = 0

    def at(self, level: int) -> Self:
        return dataclasses.replace(self, level=level)

    def attend(self, x: Array, context: Context, name: str, normed: bool = True) -> Array:
        del normed  # it has a norm
        return SpatialTransformer(self.heads[self.level], self.style, self.linear, name=name)(x, context)

    def attention_flops(self, channels: int, places: float, context_length: int) -> float:
        module = SpatialTransformer(self.heads[self.level], self.style, self.linear, parent=None)
        return module.flops(channels, places, (context_length, self.context_width))


class Residuals(NamedTuple):
    """What another network adds to a U-Net (ControlNet, arXiv:2302.05543, section 3.2).

    Args:
        skips: to each map of the way down, before the way up reads it.
        middle: to the map behind the middle.
    """

    skips: tuple[Float[Array, "b h w c"], ...]
    middle: Float[Array, "b h w c"]


class ConditionalLevels(UNetLevels):
    """What a U-Net with a context and a ControlNet have in common.

    Attributes:
        blocks: see `ConditionalBlocks`.
    """

    blocks: ConditionalBlocks = ConditionalBlocks()

    def context_keys_values(self, context: Float[Array, "b l d"]) -> dict[str, Any]:
        """What all steps have in common: keys and values of every layer.

        Call it as `model.apply(variables, context, method="context_keys_values")`.
        """
        return context_keys_values(self.variables["params"], context, self.blocks.style.dtype)

    def checked(self, context: Float[Array, "b l d"] | Mapping[str, Any]) -> Context:
        """The context in the dtype of the computation; raises a UserError for another width."""
        if context is None or isinstance(context, Mapping):
            return context
        check_context(context, self.blocks.context_width)
        return context.astype(self.blocks.style.dtype)

    def check_channels(self, channels: int) -> None:
        """Raises a UserError for maps that it cannot read."""
        if channels != self.inputs:
            raise UserError(
                f"The U-Net reads {self.inputs} channels and was given {channels}",
                "Give latents of 4 channels alone, with a depth as the fifth, or with a mask and a masked image for 9",
            )


class ConditionalUNet(ConditionalLevels):
    """A denoiser with a context.

    Parameters, float32: `conv_in`, `time`, `down_0` at the full resolution, ..., `middle`, ..., `up_0`, `norm_out`,
    `conv_out`. Whatever ends a residual path is zero at first, and so is the output.

    Attributes:
        outputs: channels of what is predicted.

    The others are those of `vit_jax.nn.unet_levels.UNetLevels`.
    """

    outputs: int = 4
    num_classes: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w inputs"],
        times: Shaped[Array, " b"],
        context: Float[Array, "b l d"] | Int[Array, " b"] | Mapping[str, Any],
        *,
        residuals: Residuals | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w outputs"]:
        """What it predicts, float32.

        Args:
            x: latents with noise, and what else the network sees of each place behind them.
            times: timesteps, from 0 on.
            context: tokens, or classes; or what `context_keys_values` makes of them, with the same result.
            residuals: what a ControlNet adds.
            train: whether dropout is applied, from the stream "dropout".

        Raises:
            UserError: for sides that do not divide as often as there are levels, other channels, tokens of another
                width, or classes where it has no table of them.
        """
        self.check_size(x.shape[1:3])
        self.check_channels(x.shape[-1])
        style, time = self.blocks.style, self.embedded(times)
        if self.num_classes and not isinstance(context, Mapping):
            context = self._table(name=_CLASSES)(context)[:, None]
        context = self.checked(context)
        x = style.conv(self.channels, 3, "conv_in")(x.astype(style.dtype))
        skips, x = self.way_down(x, time, context, train=train)
        if residuals is not None:
            skips = [skip + more.astype(skip.dtype) for skip, more in zip(skips, residuals.skips, strict=True)]
            x = x + residuals.middle.astype(x.dtype)
        x = self.way_up(x, skips, time, context, train=train)
        x = nn.silu(style.norm("norm_out")(x))
        return style.conv(self.outputs, 3, "conv_out", zero=True)(x).astype(jnp.float32)

    def context_keys_values(self, context: Float[Array, "b l d"] | Int[Array, " b"]) -> dict[str, Any]:
        if self.num_classes:
            table = {"params": self.variables["params"][_CLASSES]}
            context = self._table(parent=None).apply(table, context)[:, None]
        return super().context_keys_values(context)

    def _table(self, **owner: Any) -> ClassEmbedding:
        return ClassEmbedding(self.num_classes, self.blocks.context_width, **owner)

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, ...]:
        """See `vit_jax.nn.example_inputs`; the size is that of the latents."""
        x = jnp.zeros((1, *(image_size or (self.stride, self.stride)), self.inputs))
        tokens = jnp.zeros((1, TOKENS, self.blocks.context_width))
        return x, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32) if self.num_classes else tokens

    def flops(self, image_size: Sequence[int], context_length: int = TOKENS) -> float:
        """Of one image, keys and values of the context among them; see `vit_jax.nn.flops`."""
        places, context_length = math.prod(image_size), 1 if self.num_classes else context_length
        down, skips = self.down_flops(places, context_length)
        return down + self.up_flops(skips, context_length) + product_flops(places, 9 * self.channels, self.outputs)


def blocks_of(
    heads: int | Sequence[int],
    levels: int,
    *,
    linear: bool,
    context_width: int,
    dropout_rate: float,
    norm_groups: int,
    epsilon: float,
    dtype: str,
) -> ConditionalBlocks:
    """Blocks from plain values; one number of heads stands for all levels.

    Raises:
        UserError: for heads of more or fewer levels than there are.
    """
    heads = (heads,) * levels if isinstance(heads, int) else tuple(heads)
    if len(heads) != levels:
        raise UserError(f"There are heads of {len(heads)} levels for {levels}", "Say one number for each level")
    style = MapStyle(norm_groups, epsilon, compute_dtype(dtype))
    return ConditionalBlocks(
        style, dropout=dropout_rate, symmetric=True, heads=heads, linear=linear, context_width=context_width
    )


def build(
    *,
    inputs: Count = 4,
    outputs: Count = 4,
    channels: Count = 320,
    multipliers: Sequence[Count] = (1, 2, 4, 4),
    num_blocks: Count = 2,
    attention_levels: Sequence[Natural] = (0, 1, 2),
    heads: Count | Sequence[Count] = 8,
    context_width: Count = 768,
    num_classes: Natural = 0,
    linear: bool = False,
    dropout_rate: Decay = 0.0,
    norm_groups: Count = 32,
    epsilon: Positive = 1e-5,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> ConditionalUNet:
    """A U-Net from values that JSON can hold; the defaults are Stable Diffusion 1's.

    Stable Diffusion 2 has `heads=(5, 10, 20, 20)`, `context_width=1024` and `linear=True`.

    Args:
        inputs: 4 of latents; 5 with a depth; 9 with a mask and a masked image.
        outputs: channels of what is predicted.
        channels: see `vit_jax.nn.unet_levels.UNetLevels`, like `multipliers`, `num_blocks` and `attention_levels`.
        heads: of attention, one number or one for each level.
        context_width: of the tokens.
        num_classes: see `ConditionalUNet`.
        linear: see `SpatialTransformer`.
        dropout_rate: of residual blocks.
        norm_groups: channels are normalised in so many groups.
        epsilon: of the residual blocks' norms.
        dtype: compute dtype by name; parameters, norms and the output are float32.

    Raises:
        UserError: for levels that are not there, or channels that do not divide.
    """
    check_levels(multipliers, attention_levels, channels, norm_groups)
    blocks = blocks_of(
        heads, len(multipliers), linear=linear, context_width=context_width, dropout_rate=dropout_rate,
        norm_groups=norm_groups, epsilon=epsilon, dtype=dtype,
    )  # fmt: skip
    return ConditionalUNet(
        inputs, channels, tuple(multipliers), num_blocks, tuple(attention_levels), sine_first=False, shift=0,
        blocks=blocks, outputs=outputs, num_classes=num_classes,
    )  # fmt: skip
