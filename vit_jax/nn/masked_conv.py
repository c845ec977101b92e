"""Convolutions whose filters see only what comes before, for images that are generated pixel by pixel and colour by
colour ("Pixel recurrent neural networks", van den Oord et al., arXiv:1601.06759, section 3.4)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int


def colour_of(channels: int, colours: int, parts: int = 1) -> Int[np.ndarray, " channels"]:
    """Which colour each channel of a map belongs to: those of the first colour stand first.

    Args:
        parts: into which the channels are cut before, such as the gates of a unit, each with all colours.
    """
    return np.tile(np.arange(channels // parts) * colours // (channels // parts), parts)


def causal_mask(
    kernel: tuple[int, int], of_input: Sequence[int], of_output: Sequence[int], itself: bool
) -> Bool[np.ndarray, "kh kw cin cout"]:
    """Where a filter may look: at the rows above, at what stands before in its row, and of its own pixel at the colours
    before its own.

    Args:
        of_input: the colour of each input channel.
        of_output: and of each output channel.
        itself: at its own colour too (mask B): right where the input is no image, but made by mask A of one.
    """
    height, width = kernel
    rows, columns = np.mgrid[:height, :width] - np.array([height // 2, width // 2])[:, None, None]
    before = (rows < 0) | ((rows == 0) & (columns < 0))
    here = (rows == 0) & (columns == 0)
    of_input, of_output = np.asarray(of_input)[:, None], np.asarray(of_output)
    allowed = of_input <= of_output if itself else of_input < of_output
    return before[..., None, None] | (here[..., None, None] & allowed)


class MaskedConv(nn.Module):
    """A convolution by `causal_mask`, with zeros around the map.

    Parameters, float32: `kernel` [kh, kw, C, width], of which the mask hides a part, and `bias` [width].

    Attributes:
        width: channels that come out.
        kernel: rows and columns of the filters, both odd.
        colours: of the image.
        itself: see `causal_mask`.
        parts: of the channels that come out, see `colour_of`.
        dtype: dtype of the convolution and of the result.
    """

    width: int
    kernel: tuple[int, int]
    colours: int
    itself: bool = True
    parts: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w width"]:
        channels = x.shape[-1]
        seen = colour_of(channels, self.colours), colour_of(self.width, self.colours, self.parts)
        mask = causal_mask(self.kernel, *seen, self.itself)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (*self.kernel, channels, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        around = [(side // 2, side // 2) for side in self.kernel]
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype), (kernel * mask).astype(self.dtype), (1, 1), around,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return x + bias.astype(self.dtype)


class RowsAbove(nn.Module):
    """A convolution over rows above, the pixels of a stack that no colour of the own row enters.

    Parameters, float32: `kernel` [kh, kw, C, width] and `bias` [width].

    Attributes:
        width: channels that come out.
        size: rows and columns of the square filter of which this is the upper half.
        own_row: also over the own row: right where the input has been made of the rows above alone.
        dtype: dtype of the convolution and of the result.
    """

    width: int
    size: int
    own_row: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w width"]:
        half = self.size // 2
        rows = half + self.own_row
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (rows, self.size, x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        found = jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel.astype(self.dtype), (1, 1), [(half, 0), (half, half)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return found[:, : x.shape[1]] + bias.astype(self.dtype)
