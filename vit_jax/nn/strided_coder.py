"""Convolutions that halve a map and double it again, with residual blocks between: those of the VQ-VAE."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.nn.conv import Conv, ConvTranspose
from vit_jax.nn.flops import product_flops
from vit_jax.nn.image_tokenizer import grid_of


def halvings(factor: int) -> int:
    """How often a map is halved for `factor` pixels along a side of a place.

    Raises:
        UserError: for what is no power of 2 of at least 2.
    """
    if factor < 2 or factor & (factor - 1):
        raise UserError(f"A place cannot be {factor}x{factor} pixels", "Set factor to 2, 4, 8 or another power of 2")
    return factor.bit_length() - 1


class ResidualBlocks(nn.Module):
    """Blocks of ReLU, a 3x3 and, after another ReLU, a 1x1 convolution, beside a shortcut.

    Parameters: `block_0_wide`, `block_0_back`, `block_1_wide`, ...

    Attributes:
        width: channels.
        hidden: channels between the two convolutions.
        depth: number of blocks.
        dtype: of the computation.
    """

    width: int
    hidden: int
    depth: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        for i in range(self.depth):
            y = Conv(self.hidden, 3, dtype=self.dtype, name=f"block_{i}_wide")(nn.relu(x))
            x = x + Conv(self.width, 1, dtype=self.dtype, name=f"block_{i}_back")(nn.relu(y))
        return x

    def flops(self, places: int) -> float:
        """Those of a map of so many places."""
        return self.depth * product_flops(places, 10 * self.hidden, self.width)


class StridedEncoder(nn.Module):
    """Images to maps: 4x4 convolutions of stride 2, each halving, then residual blocks and a 1x1 convolution
    (VQ-VAE, arXiv:1711.00937, section 4.1).

    Parameters: `down_0`, `down_1`, ..., `blocks`, `last`.

    Attributes:
        out: channels that come out.
        width: channels of the convolutions; the first of several has half of them, as sonnet's has.
        hidden: see `ResidualBlocks`, like `depth`.
        factor: pixels along a side of a place, a power of 2.
        dtype: of the computation; what comes out is float32.

    Raises:
        UserError: for a factor that is no power of 2.
    """

    out: int
    width: int = 256
    hidden: int = 256
    depth: int = 2
    factor: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw out"]:
        grid_of(x.shape[1:3], self.factor)
        for i, width in enumerate(_widths(self.width, self.factor)):
            x = nn.relu(x) if i else x
            x = Conv(width, 4, stride=2, padding=1, dtype=self.dtype, name=f"down_{i}")(x)
        x = ResidualBlocks(self.width, self.hidden, self.depth, self.dtype, name="blocks")(x)
        return Conv(self.out, 1, dtype=self.dtype, name="last")(nn.relu(x)).astype(jnp.float32)

    def flops(self, grid: tuple[int, int], channels: int = 3) -> float:
        """Those of a map of `channels` that becomes one of so many places."""
        return _flops(self, grid, channels, self.out)


class StridedDecoder(nn.Module):
    """The way back: a 3x3 convolution, residual blocks, and transposed 4x4 convolutions, each doubling.

    Parameters: `first`, `blocks`, `up_0`, `up_1`, ...

    Attributes:
        out: channels that come out.
        width: see `StridedEncoder`, like the others; the last but one of several convolutions gives half of it.
    """

    out: int = 3
    width: int = 256
    hidden: int = 256
    depth: int = 2
    factor: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b gh gw c"]) -> Float[Array, "b h w out"]:
        x = Conv(self.width, 3, dtype=self.dtype, name="first")(x)
        x = ResidualBlocks(self.width, self.hidden, self.depth, self.dtype, name="blocks")(x)
        widths = (*_widths(self.width, self.factor)[-2::-1], self.out)
        for i, width in enumerate(widths):
            x = ConvTranspose(width, 4, 2, padding=1, dtype=self.dtype, name=f"up_{i}")(nn.relu(x))
        return x.astype(jnp.float32)

    def flops(self, grid: tuple[int, int], channels: int) -> float:
        """Those of a map of `channels` and so many places."""
        first = product_flops(grid[0] * grid[1], 9 * channels, self.width)
        return first + _flops(self, grid, self.out, 0)


def _widths(width: int, factor: int) -> tuple[int, ...]:
    """Channels after each halving."""
    count = halvings(factor)
    return tuple(width if i or count == 1 else max(width // 2, 1) for i in range(count))


def _flops(coder: StridedEncoder | StridedDecoder, grid: tuple[int, int], outside: int, inside: int) -> float:
    """Of strided convolutions between an image of `outside` channels and the places, of blocks, and of a 1x1
    convolution to `inside` channels."""
    places = grid[0] * grid[1]
    total = product_flops(places, coder.width, inside)
    total += ResidualBlocks(coder.width, coder.hidden, coder.depth, parent=None).flops(places)
    widths = _widths(coder.width, coder.factor)
    for i, (before, after) in enumerate(zip((outside, *widths), widths, strict=False)):
        total += product_flops(places * 4 ** (len(widths) - 1 - i), 16 * before, after)
    return total
