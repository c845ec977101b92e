"""Convolutions as BiT builds them: weight standardisation, group normalisation, and padding that is spelled out."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest

Padding = Literal["fixed", "same"]
EpsilonIn = Literal["variance", "deviation"]
PoolPadding = Literal["zeros", "lowest"]

_PADDINGS = ("fixed", "same")
_EPSILONS_IN = ("variance", "deviation")
_POOL_PADDINGS = ("zeros", "lowest")


def pads(size: Sequence[int], kernel: int, stride: int, padding: Padding) -> list[tuple[int, int]]:
    """Rows or columns to put before and after each spatial axis, for an output of `ceil(size / stride)`.

    Args:
        size: of the input, in pixels.
        kernel: side of the window.
        stride: of the window.
        padding: "fixed" is the same on both sides whatever the size, as PyTorch and BiT do; "same" is TensorFlow's and
            Flax's SAME, which puts no more than is needed and the odd one behind. With a stride of 2 the two differ by
            a shift of the whole map.

    Raises:
        UserError: for an unknown padding.
    """
    if padding not in _PADDINGS:
        raise UserError(f"Unknown padding '{padding}'", nearest(padding, _PADDINGS))
    if padding == "fixed":
        return [((kernel - 1) // 2, kernel // 2)] * len(size)
    totals = [max((-(-s // stride) - 1) * stride + kernel - s, 0) for s in size]
    return [(total // 2, total - total // 2) for total in totals]


def standardize_weights(
    kernel: Float[Array, "h w cin cout"], epsilon: float, epsilon_in: EpsilonIn
) -> Float[Array, "h w cin cout"]:
    """Each filter with mean 0 and deviation 1 over its inputs ("Weight Standardization", arXiv:1903.10520), float32.

    Args:
        epsilon: keeps the division safe.
        epsilon_in: "deviation" divides by std + epsilon (the hybrids of the ViT paper, 1e-5), "variance" by
            sqrt(variance + epsilon) (BiT, 1e-10; timm and transformers, 1e-8). Filters with a deviation of 0.01 come
            out 0.1 % apart: weights need the form that they were trained with.

    Raises:
        UserError: for an unknown `epsilon_in`.
    """
    if epsilon_in not in _EPSILONS_IN:
        raise UserError(f"Unknown weight_epsilon_in '{epsilon_in}'", nearest(epsilon_in, _EPSILONS_IN))
    kernel = kernel.astype(jnp.float32)
    centred = kernel - kernel.mean(axis=(0, 1, 2))
    variance = jnp.square(centred).mean(axis=(0, 1, 2))
    if epsilon_in == "variance":
        return centred * jax.lax.rsqrt(variance + epsilon)
    return centred / (jnp.sqrt(variance) + epsilon)


class StdConv(nn.Module):
    """A convolution without a bias whose weights are standardised, see `standardize_weights`.

    Parameters, float32: `kernel` [k, k, C, width].

    Attributes:
        width: number of filters.
        kernel_size: their side in pixels.
        stride: of the filters.
        padding: see `pads`.
        epsilon: see `standardize_weights`, like `epsilon_in`.
        dtype: dtype of the convolution and of the result; standardisation is float32.
    """

    width: int
    kernel_size: int
    stride: int = 1
    padding: Padding = "fixed"
    epsilon: float = 1e-10
    epsilon_in: EpsilonIn = "variance"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow width"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            standardize_weights(kernel, self.epsilon, self.epsilon_in).astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=pads(x.shape[1:3], self.kernel_size, self.stride, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class GroupNorm(nn.Module):
    """Group normalisation (arXiv:1803.08494): statistics over height, width and the channels of a group, float32.

    The variance is the mean square of what is centred, not E[x^2] - E[x]^2, which cancels where the mean is large.
    Parameters, float32: `scale` [C] and `bias` [C].

    Attributes:
        num_groups: neighbouring channels are divided into so many groups.
        epsilon: added to the variance.
        dtype: dtype of the result.
        scale_init: of `scale`, ones or zeros.

    Raises:
        UserError: when the channels cannot be divided into the groups.
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise UserError(
                f"{channels} channels cannot be normalised in {self.num_groups} groups",
                f"Use a width that is a multiple of {self.num_groups}, or another num_groups",
            )
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        grouped = x.astype(jnp.float32).reshape(*x.shape[:3], self.num_groups, -1)
        centred = grouped - grouped.mean(axis=(1, 2, 4), keepdims=True)
        variance = jnp.square(centred).mean(axis=(1, 2, 4), keepdims=True)
        normalised = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return (normalised * scale + bias).astype(self.dtype)


def max_pool(x: Float[Array, "b h w c"], padding: Padding, pad_with: PoolPadding) -> Float[Array, "b oh ow c"]:
    """The largest of each 3x3 window, with a stride of 2.

    Args:
        padding: see `pads`.
        pad_with: "zeros" is what BiT, timm and transformers do, "lowest" (the most negative finite number) what
            big_vision and the hybrids of the ViT paper do. They differ at the borders, where everything in sight is
            negative.

    Raises:
        UserError: for an unknown padding.
    """
    if pad_with not in _POOL_PADDINGS:
        raise UserError(f"Unknown stem_pool_padding '{pad_with}'", nearest(pad_with, _POOL_PADDINGS))
    around = pads(x.shape[1:3], 3, 2, padding)
    if pad_with == "zeros":
        x, around = jnp.pad(x, [(0, 0), *around, (0, 0)]), [(0, 0), (0, 0)]
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=around)
