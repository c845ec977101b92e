"""The convolutional encoder and decoder of VQGAN and of latent diffusion.

Esser et al., "Taming transformers for high-resolution image synthesis" (arXiv:2012.09841, appendix A.4); Rombach et
al., "High-resolution image synthesis with latent diffusion models" (arXiv:2112.10752, appendix E). The blocks are those
of DDPM's U-Net, `vit_jax.nn.unet_blocks`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.flops import product_flops
from vit_jax.nn.image_tokenizer import grid_of
from vit_jax.nn.unet_blocks import Down, MapStyle, ResidualBlock, SpatialAttention, Up


class Level(nn.Module):
    """Blocks at one resolution, and the way to the next one.

    Parameters: `block_0`, `attention_0`, `block_1`, ..., and `down` or `up`.

    Attributes:
        width: channels.
        num_blocks: residual blocks.
        attends: whether attention follows each of them.
        resample: "down", "up", or "" for none.
        style: see `MapStyle`.
    """

    width: int
    num_blocks: int
    attends: bool = False
    resample: str = ""
    style: MapStyle = MapStyle()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 width"]:
        for i in range(self.num_blocks):
            x = ResidualBlock(self.width, self.style, name=f"block_{i}")(x)
            if self.attends:
                x = SpatialAttention(self.style, name=f"attention_{i}")(x)
        if self.resample:
            x = {"down": Down, "up": Up}[self.resample](self.style, name=self.resample)(x)
        return x

    def flops(self, channels: int, places: int) -> float:
        """Of one map of so many channels and places."""
        block, total = ResidualBlock(self.width, self.style, parent=None), 0.0
        for i in range(self.num_blocks):
            total += block.flops(self.width if i else channels, places)
        if self.attends:
            total += self.num_blocks * SpatialAttention(parent=None).flops(self.width, places)
        after = {"down": places / 4, "up": 4 * places, "": 0}[self.resample]
        return total + product_flops(after, 9 * self.width, self.width)


class Middle(nn.Module):
    """What is at the lowest resolution: a block, attention, a block. Parameters: `block_0`, `attention`, `block_1`."""

    width: int
    attends: bool = True
    style: MapStyle = MapStyle()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w width"]) -> Float[Array, "b h w width"]:
        x = ResidualBlock(self.width, self.style, name="block_0")(x)
        if self.attends:
            x = SpatialAttention(self.style, name="attention")(x)
        return ResidualBlock(self.width, self.style, name="block_1")(x)

    def flops(self, places: int) -> float:
        """Of one map of so many places."""
        blocks = 2 * ResidualBlock(self.width, self.style, parent=None).flops(self.width, places)
        return blocks + (SpatialAttention(parent=None).flops(self.width, places) if self.attends else 0.0)


class Encoder(nn.Module):
    """Images to maps of 1 / 2^(levels - 1) of their sides.

    Parameters: `conv_in`, `level_0` at the full resolution, `level_1`, ..., `middle`, `norm_out`, `conv_out`.

    Attributes:
        outputs: channels that come out: those of the latents, twice as many for mean and log variance.
        channels: of the first level.
        multipliers: channels of each level, over `channels`.
        num_blocks: residual blocks of a level.
        attention_levels: of which attention follows each block; the side of level i is 1 / 2^i of the image's.
        middle_attends: whether there is attention between the blocks of the middle.
        style: see `MapStyle`.
    """

    outputs: int
    channels: int = 128
    multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    num_blocks: int = 2
    attention_levels: Sequence[int] = ()
    middle_attends: bool = True
    style: MapStyle = MapStyle()

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b gh gw outputs"]:
        style = self.style
        x = style.conv(self.channels, 3, "conv_in")(images.astype(style.dtype))
        for i in range(len(self.multipliers)):
            x = self._level(i, name=f"level_{i}")(x)
        x = Middle(x.shape[-1], self.middle_attends, style, name="middle")(x)
        return style.conv(self.outputs, 3, "conv_out")(nn.silu(style.norm("norm_out")(x)))

    @property
    def stride(self) -> int:
        """Pixels along a side of a place."""
        return 2 ** (len(self.multipliers) - 1)

    def flops(self, image_size: tuple[int, int], inputs: int = 3) -> float:
        """Of one image, see `vit_jax.nn.flops`."""
        places = math.prod(image_size)
        total, channels = product_flops(places, 9 * inputs, self.channels), self.channels
        for i in range(len(self.multipliers)):
            level = self._level(i, parent=None)
            total += level.flops(channels, places)
            channels, places = level.width, places // 4 if level.resample else places
        middle = Middle(channels, self.middle_attends, self.style, parent=None)
        return total + middle.flops(places) + product_flops(places, 9 * channels, self.outputs)

    def _level(self, i: int, **owner: str | None) -> Level:
        down = "down" if i < len(self.multipliers) - 1 else ""
        width = self.channels * self.multipliers[i]
        return Level(width, self.num_blocks, i in self.attention_levels, down, self.style, **owner)


class Decoder(nn.Module):
    """Maps of latents to images of 2^(levels - 1) times their sides.

    Parameters: `conv_in`, `middle`, the levels from the last one up to `level_0`, `norm_out`, `conv_out`. A level has
    one block more than the encoder's.

    Attributes:
        outputs: channels of the images.
        channels: see `Encoder`, like all others.
    """

    outputs: int = 3
    channels: int = 128
    multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    num_blocks: int = 2
    attention_levels: Sequence[int] = ()
    middle_attends: bool = True
    style: MapStyle = MapStyle()

    @nn.compact
    def __call__(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w outputs"]:
        style, width = self.style, self.channels * self.multipliers[-1]
        x = style.conv(width, 3, "conv_in")(latents.astype(style.dtype))
        x = Middle(width, self.middle_attends, style, name="middle")(x)
        for i in reversed(range(len(self.multipliers))):
            x = self._level(i, name=f"level_{i}")(x)
        return style.conv(self.outputs, 3, "conv_out")(nn.silu(style.norm("norm_out")(x)))

    def flops(self, grid: tuple[int, int], inputs: int) -> float:
        """Of a map of so many rows and columns."""
        places, channels = math.prod(grid), self.channels * self.multipliers[-1]
        middle = Middle(channels, self.middle_attends, self.style, parent=None)
        total = product_flops(places, 9 * inputs, channels) + middle.flops(places)
        for i in reversed(range(len(self.multipliers))):
            level = self._level(i, parent=None)
            total += level.flops(channels, places)
            channels, places = level.width, 4 * places if level.resample else places
        return total + product_flops(places, 9 * channels, self.outputs)

    def _level(self, i: int, **owner: str | None) -> Level:
        up, width = "up" if i else "", self.channels * self.multipliers[i]
        return Level(width, self.num_blocks + 1, i in self.attention_levels, up, self.style, **owner)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The sizes of an encoder and of the decoder that mirrors it, see `Encoder`.

    Args:
        channels: of the first level.
        multipliers: channels of each level, over `channels`.
        num_blocks: residual blocks of a level of the encoder; the decoder has one more.
        attention_levels: of the encoder with attention.
        decoder_attention_levels: of the decoder; None for the encoder's.
        middle_attends: whether there is attention between the blocks of the middle.
        style: see `MapStyle`.

    Raises:
        UserError: for levels that are not there, or channels that do not divide into groups.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    decoder_attention_levels: tuple[int, ...] | None = None
    middle_attends: bool = True
    style: MapStyle = dataclasses.field(default_factory=MapStyle)

    def __post_init__(self):
        levels = range(len(self.multipliers))
        if not levels or min(self.multipliers) < 1:
            raise UserError(f"The multipliers {list(self.multipliers)} make no levels", "Give one from 1 on for each")
        for level in (*self.attention_levels, *(self.decoder_attention_levels or ())):
            if level not in levels:
                raise UserError(
                    f"There is no level {level} to attend at",
                    f"Levels go from 0 to {levels[-1]}, the lowest resolution",
                )
        if self.channels % self.style.groups:
            raise UserError(
                f"{self.channels} channels cannot be normalised in {self.style.groups} groups",
                f"Use a multiple of {self.style.groups}, or another norm_groups",
            )

    @property
    def stride(self) -> int:
        """Pixels along a side of a place of the latents."""
        return 2 ** (len(self.multipliers) - 1)

    def encoder(self, outputs: int, **owner: Any) -> Encoder:
        """The encoder, by default of the module in whose setup this is called."""
        return Encoder(outputs, attention_levels=self.attention_levels, **self._common, **owner)

    def decoder(self, outputs: int = 3, **owner: Any) -> Decoder:
        """The decoder, see `encoder`."""
        own = self.decoder_attention_levels
        levels = self.attention_levels if own is None else own
        return Decoder(outputs, attention_levels=levels, **self._common, **owner)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the latents of an image.

        Raises:
            UserError: for sides that do not divide.
        """
        return grid_of(image_size, self.stride)

    def flops(self, image_size: tuple[int, int], outputs: int, inputs: int) -> float:
        """Of one image through both, see `vit_jax.nn.flops`.

        Args:
            outputs: channels that the encoder gives.
            inputs: channels that the decoder takes.
        """
        encoder, decoder = self.encoder(outputs, parent=None), self.decoder(parent=None)
        return encoder.flops(image_size) + decoder.flops(self.grid(image_size), inputs)

    @property
    def _common(self) -> dict[str, Any]:
        names = ("channels", "multipliers", "num_blocks", "middle_attends", "style")
        return {name: getattr(self, name) for name in names}
