"""The levels that the U-Nets of diffusion and their halves are made of.

DDPM (arXiv:2006.11239, appendix B), ADM (arXiv:2105.05233, section 3) and latent diffusion (arXiv:2112.10752, section
3.3).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vit_jax.errors import UserError
from vit_jax.nn.flops import product_flops
from vit_jax.nn.time_embedding import TimeEmbedding
from vit_jax.nn.unet_blocks import Down, MapStyle, Resample, ResidualBlock, SpatialAttention, Up

# What levels read beside a map: tokens [B, L, D], or by the names of modules what was made of them before.
Context = Array | Mapping[str, Any] | None


def below(context: Context, name: str) -> Context:
    """Of a module what one in it reads."""
    return context.get(name) if isinstance(context, Mapping) else context


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

    def at(self, level: int) -> Self:
        """Those of one level."""
        del level
        return self

    def attention(self, normed: bool = True, **owner: Any) -> SpatialAttention:
        """Attention of the module that calls this; zero at first."""
        return SpatialAttention(self.style, self.head_width, normed, zero_last=True, **owner)

    def attend(self, x: Array, context: Context, name: str, normed: bool = True) -> Array:
        """The map behind attention, by a module of the one that calls this."""
        del context
        return self.attention(normed, name=name)(x)

    def attention_flops(self, channels: int, places: float, context_length: int) -> float:
        """Of one map of so many channels and places, and so many tokens of a context."""
        del context_length
        return self.attention(parent=None).flops(channels, places)

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
    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b e"], context: Context = None, *, train: bool
    ) -> list[Array]:
        found = []
        for i in range(self.num_blocks):
            x = self.blocks.residual(self.width, name=f"block_{i}")(x, time, train=train)
            if self.attends:
                x = self.blocks.attend(x, below(context, f"attention_{i}"), f"attention_{i}")
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
        self,
        x: Float[Array, "b h w c"],
        skips: list[Array],
        time: Float[Array, "b e"],
        context: Context = None,
        *,
        train: bool,
    ) -> Float[Array, "b h2 w2 width"]:
        for i, skip in enumerate(skips):
            joined = jnp.concatenate([x, skip], axis=-1)
            x = self.blocks.residual(self.width, name=f"block_{i}")(joined, time, train=train)
            if self.attends:
                x = self.blocks.attend(x, below(context, f"attention_{i}"), f"attention_{i}")
        return self.blocks.resample(x, time, "up", train=train) if self.resamples else x


class UNetMiddle(nn.Module):
    """A block, attention, a block. Parameters: `block_0`, `attention`, `block_1`."""

    attends: bool
    normed: bool
    blocks: Blocks

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b e"], context: Context = None, *, train: bool
    ) -> Array:
        width = x.shape[-1]
        x = self.blocks.residual(width, name="block_0")(x, time, train=train)
        if self.attends:
            x = self.blocks.attend(x, below(context, "attention"), "attention", self.normed)
        return self.blocks.residual(width, name="block_1")(x, time, train=train)


class UNetLevels(nn.Module):
    """What a U-Net and its first half have in common.

    Parameters, float32, of what the methods make: `time`; `down_0` at the full resolution, `down_1`, ..., `middle`,
    ..., `up_1`, `up_0`.

    Attributes:
        inputs: channels of the images.
        channels: of the first level.
        multipliers: channels of each level, over `channels`.
        num_blocks: residual blocks of a level on the way down; there is one more on the way up.
        attention_levels: of which attention follows each block.
        sine_first: see `vit_jax.nn.time_embedding.time_features`, like `shift`.
        middle_attends: whether there is attention in the middle.
        middle_normed: whether that has a norm.
        blocks: see `Blocks`.
    """

    inputs: int = 3
    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_levels: Sequence[int] = (1,)
    sine_first: bool = True
    shift: int = 1
    middle_attends: bool = True
    middle_normed: bool = True
    blocks: Blocks = Blocks()

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

    def embedded(self, times: Shaped[Array, " b"]) -> Float[Array, "b e"]:
        """Timesteps as all blocks read them."""
        style = self.blocks.style
        return TimeEmbedding(
            4 * self.channels, self.channels, style.dtype, self.sine_first, self.shift, name="time"
        )(times)  # fmt: skip

    def way_down(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b e"], context: Context = None, *, train: bool
    ) -> tuple[list[Array], Array]:
        """All maps on the way, the one that comes in among them, and the one behind the middle."""
        skips = [x]
        for i, width in self._levels():
            name = f"down_{i}"
            level = DownLevel(
                width, self.num_blocks, self._attends(i), not self._is_last(i), self.blocks.at(i), name=name
            )
            skips += level(skips[-1], time, below(context, name), train=train)
        blocks = self.blocks.at(len(self.multipliers) - 1)
        middle = UNetMiddle(self.middle_attends, self.middle_normed, blocks, name="middle")
        return skips, middle(skips[-1], time, below(context, "middle"), train=train)

    def way_up(
        self,
        x: Float[Array, "b h2 w2 c2"],
        skips: Sequence[Array],
        time: Float[Array, "b e"],
        context: Context = None,
        *,
        train: bool,
    ) -> Float[Array, "b h w c"]:
        """The map at the full resolution from that of the middle and those on the way down."""
        skips = list(skips)
        for i, width in reversed(list(self._levels())):
            taken, name = [skips.pop() for _ in range(self.num_blocks + 1)], f"up_{i}"
            level = UpLevel(width, self._attends(i), i > 0, self.blocks.at(i), name=name)
            x = level(x, taken, time, below(context, name), train=train)
        return x

    def down_flops(self, places: float, context_length: int = 0) -> tuple[float, list[tuple[int, float]]]:
        """Of time, first convolution, way down and middle for one image of so many places, and channels and places of
        all maps on the way."""
        width = 4 * self.channels
        total = product_flops(1, self.channels, width) + product_flops(1, width, width)
        total += product_flops(places, 9 * self.inputs, self.channels)
        skips = [(self.channels, places)]
        for i, of_level in self._levels():
            for _ in range(self.num_blocks):
                total += self._block_flops(i, skips[-1][0], of_level, places, self._attends(i), context_length)
                skips.append((of_level, places))
            if not self._is_last(i):
                places /= 4
                total += self._between_flops(of_level, places)
                skips.append((of_level, places))
        last, before = len(self.multipliers) - 1, skips[-1][0]
        for attends in (self.middle_attends, False):
            total += self._block_flops(last, before, before, places, attends, context_length)
        return total, skips

    def up_flops(self, skips: Sequence[tuple[int, float]], context_length: int = 0) -> float:
        """Of the way up."""
        skips, total = list(skips), 0.0
        before, places = skips[-1]
        for i, of_level in reversed(list(self._levels())):
            for _ in range(self.num_blocks + 1):
                inputs = before + skips.pop()[0]
                total += self._block_flops(i, inputs, of_level, places, self._attends(i), context_length)
                before = of_level
            if i:
                places *= 4
                total += self._between_flops(of_level, places)
        return total

    def _block_flops(
        self, level: int, inputs: int, outputs: int, places: float, attends: bool, context_length: int
    ) -> float:
        blocks = self.blocks.at(level)
        cost = blocks.residual(outputs, parent=None).flops(inputs, places, 4 * self.channels)
        return cost + (blocks.attention_flops(outputs, places, context_length) if attends else 0.0)

    def _between_flops(self, channels: int, places: float) -> float:
        if self.blocks.residual_resample:
            return self.blocks.residual(channels, parent=None).flops(channels, places, 4 * self.channels)
        return product_flops(places, 9 * channels, channels)

    def _levels(self) -> Iterator[tuple[int, int]]:
        """Numbers and widths."""
        return ((i, self.channels * multiplier) for i, multiplier in enumerate(self.multipliers))

    def _attends(self, level: int) -> bool:
        return level in self.attention_levels

    def _is_last(self, level: int) -> bool:
        return level == len(self.multipliers) - 1


def check_levels(multipliers: Sequence[int], attention_levels: Sequence[int], channels: int, groups: int) -> None:
    """Raises a UserError for no levels, for attention at levels that are not there, or channels that do not divide."""
    levels = range(len(multipliers))
    if not levels:
        raise UserError("A U-Net has at least one level", "Give multipliers")
    for level in attention_levels:
        if level not in levels:
            raise UserError(f"There is no level {level} to attend at", f"Levels go from 0 to {levels[-1]}")
    if channels % 2 or channels % groups:
        raise UserError(
            f"{channels} channels cannot be normalised in {groups} groups, or hold sines and cosines",
            f"Use an even multiple of {groups}, or another norm_groups",
        )
