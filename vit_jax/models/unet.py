"""The U-Net of diffusion in pixels: images with noise and the time to what a sampler needs.

DDPM (arXiv:2006.11239, appendix B), iDDPM (arXiv:2102.09672, section 3 and appendix A) and ADM (arXiv:2105.05233,
section 3).
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from vit_jax.errors import UserError
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.time_embedding import TimeEmbedding
from vit_jax.nn.unet_blocks import Down, MapStyle, Resample, ResidualBlock, SpatialAttention, Up
from vit_jax.ranges import Count, Decay, Natural, Positive


@dataclasses.dataclass(frozen=True)
class Blocks:
    """What the blocks of a U-Net have in common.

    Args:
        style: norms and dtype.
        modulates: see `ResidualBlock`, like `dropout`.
        head_width: see `SpatialAttention`.
        symmetric: see `Down`.
        residual_resample: sides change within residual blocks (ADM), not by a convolution.
    """

    style: MapStyle = dataclasses.field(default_factory=MapStyle)
    modulates: bool = False
    dropout: float = 0.0
    head_width: int | None = None
    symmetric: bool = False
    residual_resample: bool = False

    def residual(self, width: int, resample: Resample = "", **owner: Any) -> ResidualBlock:
        """A residual block of the module that calls this; zero at first."""
        return ResidualBlock(width, self.style, self.modulates, self.dropout, resample, zero_last=True, **owner)

    def attention(self, normed: bool = True, **owner: Any) -> SpatialAttention:
        """Attention of the module that calls this; zero at first."""
        return SpatialAttention(self.style, self.head_width, normed, zero_last=True, **owner)

    def resample(self, x: Array, time: Array, how: Resample, *, train: bool) -> Array:
        """The map with other sides, by a module of the one that calls this."""
        if self.residual_resample:
            return self.residual(x.shape[-1], how, name=how)(x, time, train=train)
        if how == "down":
            return Down(self.style, self.symmetric, name=how)(x)
        return Up(self.style, name=how)(x)


class DownLevel(nn.Module):
    """Blocks at one resolution, and the way to half of it; gives all maps on the way.

    Parameters: `block_0`, `attention_0`, `block_1`, ..., and `down` where there is one.
    """

    width: int
    num_blocks: int
    attends: bool
    resamples: bool
    blocks: Blocks

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], time: Float[Array, "b e"], *, train: bool) -> list[Array]:
        found = []
        for i in range(self.num_blocks):
            x = self.blocks.residual(self.width, name=f"block_{i}")(x, time, train=train)
            if self.attends:
                x = self.blocks.attention(name=f"attention_{i}")(x)
            found.append(x)
        return [*found, self.blocks.resample(x, time, "down", train=train)] if self.resamples else found


class UpLevel(nn.Module):
    """Blocks at one resolution, each of which sees a map of the way down too, and the way to twice of it.

    Parameters: `block_0`, `attention_0`, `block_1`, ..., and `up` where there is one.
    """

    width: int
    attends: bool
    resamples: bool
    blocks: Blocks

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], skips: list[Array], time: Float[Array, "b e"], *, train: bool
    ) -> Float[Array, "b h2 w2 width"]:
        for i, skip in enumerate(skips):
            joined = jnp.concatenate([x, skip], axis=-1)
            x = self.blocks.residual(self.width, name=f"block_{i}")(joined, time, train=train)
            if self.attends:
                x = self.blocks.attention(name=f"attention_{i}")(x)
        return self.blocks.resample(x, time, "up", train=train) if self.resamples else x


class UNetMiddle(nn.Module):
    """A block, attention, a block. Parameters: `block_0`, `attention`, `block_1`."""

    attends: bool
    normed: bool
    blocks: Blocks

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], time: Float[Array, "b e"], *, train: bool) -> Array:
        width = x.shape[-1]
        x = self.blocks.residual(width, name="block_0")(x, time, train=train)
        if self.attends:
            x = self.blocks.attention(self.normed, name="attention")(x)
        return self.blocks.residual(width, name="block_1")(x, time, train=train)


class UNet(nn.Module):
    """A denoiser.

    Parameters, float32: `conv_in`, `time`, `classes` where there are any, `down_0` at the full resolution, `down_1`,
    ..., `middle`, ..., `up_1`, `up_0`, `norm_out`, `conv_out`. Whatever ends a residual path is zero at first, and so
    is the output.

    Attributes:
        inputs: channels of the images.
        outputs: channels of what is predicted of them.
        channels: of the first level.
        multipliers: channels of each level, over `channels`.
        num_blocks: residual blocks of a level on the way down; there is one more on the way up.
        attention_levels: of which attention follows each block.
        num_classes: rows of the table of classes, the null class among them; 0 for none.
        sine_first: see `vit_jax.nn.time_embedding.time_features`, like `shift`.
        middle_attends: whether there is attention in the middle.
        middle_normed: whether that has a norm.
        blocks: see `Blocks`.
    """

    inputs: int = 3
    outputs: int = 3
    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_levels: Sequence[int] = (1,)
    num_classes: int = 0
    sine_first: bool = True
    shift: int = 1
    middle_attends: bool = True
    middle_normed: bool = True
    blocks: Blocks = Blocks()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w inputs"],
        times: Shaped[Array, " b"],
        labels: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b h w outputs"]:
        """What it predicts, float32.

        Args:
            x: images or latents with noise.
            times: timesteps, from 0 on.
            labels: classes; where the table has none they are not read.
            train: whether dropout is applied, from the stream "dropout".

        Raises:
            UserError: for sides that do not divide as often as there are levels.
        """
        self.check_size(x.shape[1:3])
        style, width = self.blocks.style, 4 * self.channels
        embed = TimeEmbedding(width, self.channels, style.dtype, self.sine_first, self.shift, name="time")
        time = embed(times)
        if self.num_classes:
            table = nn.Embed(self.num_classes, width, dtype=style.dtype, name="classes")
            time = time + table(jnp.zeros(len(x), jnp.int32) if labels is None else labels)
        x = style.conv(self.channels, 3, "conv_in")(x.astype(style.dtype))
        skips = [x]
        for i, width in self._levels():
            level = DownLevel(
                width, self.num_blocks, self._attends(i), not self._is_last(i), self.blocks, name=f"down_{i}"
            )
            skips += level(skips[-1], time, train=train)
        middle = UNetMiddle(self.middle_attends, self.middle_normed, self.blocks, name="middle")
        x = middle(skips[-1], time, train=train)
        for i, width in reversed(list(self._levels())):
            taken = [skips.pop() for _ in range(self.num_blocks + 1)]
            x = UpLevel(width, self._attends(i), i > 0, self.blocks, name=f"up_{i}")(x, taken, time, train=train)
        x = nn.silu(style.norm("norm_out")(x))
        return style.conv(self.outputs, 3, "conv_out", zero=True)(x).astype(jnp.float32)

    @property
    def stride(self) -> int:
        """What the sides have to be multiples of."""
        return 2 ** (len(self.multipliers) - 1)

    def check_size(self, size: Sequence[int]) -> None:
        """Raises a UserError for sides that it cannot take."""
        if any(side % self.stride or side < 1 for side in size):
            raise UserError(
                f"A U-Net of {len(self.multipliers)} levels cannot halve {size[1]}x{size[0]} places so often",
                f"Use multiples of {self.stride}",
            )

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, ...]:
        """See `vit_jax.nn.example_inputs`."""
        x = jnp.zeros((1, *(image_size or (self.stride, self.stride)), self.inputs))
        return (x, jnp.zeros(1, jnp.int32), *((jnp.zeros(1, jnp.int32),) if self.num_classes else ()))

    def flops(self, image_size: Sequence[int]) -> float:
        """Of one image, see `vit_jax.nn.flops`."""
        width, places = 4 * self.channels, math.prod(image_size)
        total = product_flops(1, self.channels, width) + product_flops(1, width, width)
        total += product_flops(places, 9 * self.inputs, self.channels)

        def block(inputs: int, outputs: int, places: float, attends: bool) -> float:
            cost = self.blocks.residual(outputs, parent=None).flops(inputs, places, width)
            return cost + (self.blocks.attention(parent=None).flops(outputs, places) if attends else 0.0)

        def between(channels: int, places: float) -> float:
            if self.blocks.residual_resample:
                return block(channels, channels, places, False)
            return product_flops(places, 9 * channels, channels)

        skips = [(self.channels, places)]
        for i, of_level in self._levels():
            for _ in range(self.num_blocks):
                total += block(skips[-1][0], of_level, places, self._attends(i))
                skips.append((of_level, places))
            if not self._is_last(i):
                places /= 4
                total += between(of_level, places)
                skips.append((of_level, places))
        before = skips[-1][0]
        total += block(before, before, places, self.middle_attends) + block(before, before, places, False)
        for i, of_level in reversed(list(self._levels())):
            for _ in range(self.num_blocks + 1):
                total += block(before + skips.pop()[0], of_level, places, self._attends(i))
                before = of_level
            if i:
                places *= 4
                total += between(of_level, places)
        return total + product_flops(places, 9 * before, self.outputs)

    def _levels(self) -> Iterator[tuple[int, int]]:
        """Numbers and widths."""
        return ((i, self.channels * multiplier) for i, multiplier in enumerate(self.multipliers))

    def _attends(self, level: int) -> bool:
        return level in self.attention_levels

    def _is_last(self, level: int) -> bool:
        return level == len(self.multipliers) - 1


def build(
    *,
    inputs: Count = 3,
    outputs: Count = 3,
    channels: Count = 128,
    multipliers: Sequence[Count] = (1, 2, 2, 2),
    num_blocks: Count = 2,
    attention_levels: Sequence[Natural] = (1,),
    num_classes: Natural = 0,
    head_width: Count | None = None,
    time: Literal["ddpm", "adm"] = "ddpm",
    modulates: bool = False,
    residual_resample: bool = False,
    symmetric: bool = False,
    middle_attention: bool = True,
    middle_norm: bool = True,
    dropout_rate: Decay = 0.0,
    norm_groups: Count = 32,
    epsilon: Positive = 1e-6,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> UNet:
    """A U-Net from values that JSON can hold; the defaults are DDPM's for CIFAR-10, without its dropout of 0.1.

    Args:
        inputs: see `UNet`, like `outputs`, `channels`, `multipliers`, `num_blocks`, `attention_levels`, `num_classes`.
        head_width: channels of a head; None for one head.
        time: "ddpm" has sines first and a shift of 1, "adm" cosines first and none.
        modulates: see `Blocks`, like `residual_resample` and `symmetric`.
        middle_attention: see `UNet`.
        middle_norm: whether the attention in the middle has a norm; diffusers leaves it out where `modulates`.
        dropout_rate: of residual blocks.
        norm_groups: channels are normalised in so many groups.
        epsilon: of the norms.
        dtype: compute dtype by name; parameters, norms and the output are float32.

    Raises:
        UserError: for levels that are not there, or channels that do not divide.
    """
    levels = range(len(multipliers))
    if not levels:
        raise UserError("A U-Net has at least one level", "Give multipliers")
    for level in attention_levels:
        if level not in levels:
            raise UserError(f"There is no level {level} to attend at", f"Levels go from 0 to {levels[-1]}")
    if channels % 2 or channels % norm_groups:
        raise UserError(
            f"{channels} channels cannot be normalised in {norm_groups} groups, or hold sines and cosines",
            f"Use an even multiple of {norm_groups}, or another norm_groups",
        )
    style = MapStyle(norm_groups, epsilon, compute_dtype(dtype))
    blocks = Blocks(style, modulates, dropout_rate, head_width, symmetric, residual_resample)
    first, shift = (True, 1) if time == "ddpm" else (False, 0)
    return UNet(
        inputs, outputs, channels, tuple(multipliers), num_blocks, tuple(attention_levels), num_classes, first, shift,
        middle_attention, middle_norm, blocks,
    )  # fmt: skip
