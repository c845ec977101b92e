"""Residual units of three convolutions, 1x1, 3x3 and 1x1, with group normalisation before or after each."""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.nn.conv import EpsilonIn, GroupNorm, Padding, StdConv

# Tensor parallelism splits the channels between the first two convolutions of a residual unit, which are the fewest.
TENSOR = {"conv1/kernel": 3, "conv2/kernel": 2}


@dataclasses.dataclass(frozen=True)
class ConvStyle:
    """What all convolutions and norms of one network have in common.

    Args:
        padding: see `vit_jax.nn.conv.pads`.
        weight_epsilon: see `vit_jax.nn.conv.standardize_weights`, like `weight_epsilon_in`.
        num_groups: of every group norm, like `group_norm_epsilon`, which is added to its variance.
        dtype: dtype of the computation; parameters and statistics are float32.
    """

    padding: Padding = "fixed"
    weight_epsilon: float = 1e-10
    weight_epsilon_in: EpsilonIn = "variance"
    num_groups: int = 32
    group_norm_epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    def conv(self, width: int, kernel_size: int, stride: int = 1, *, name: str) -> StdConv:
        """A weight-standardised convolution in this style."""
        epsilon, where = self.weight_epsilon, self.weight_epsilon_in
        return StdConv(width, kernel_size, stride, self.padding, epsilon, where, self.dtype, name=name)

    def norm(self, *, name: str, **kwargs: nn.initializers.Initializer) -> GroupNorm:
        """A group norm in this style."""
        return GroupNorm(self.num_groups, self.group_norm_epsilon, self.dtype, **kwargs, name=name)


class PreActivationBottleneck(nn.Module):
    """Norm and ReLU before each convolution ("Identity mappings in deep residual networks", figure 4e).

    The stride is that of the 3x3 convolution. Where the shape changes, the shortcut is a projection of the first
    activation.
    Parameters, float32: `norm1`, `conv1`, `norm2`, `conv2`, `norm3`, `conv3`, and `proj_conv` for a projection.

    Attributes:
        width: channels inside; four times as many come out.
        stride: of the unit.
        style: of its convolutions and norms.
    """

    TENSOR: ClassVar[dict[str, int]] = TENSOR

    width: int
    stride: int
    style: ConvStyle

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow out"]:
        style, shortcut = self.style, x
        y = nn.relu(style.norm(name="norm1")(x))
        if _changes_shape(x, self.width, self.stride):
            shortcut = style.conv(4 * self.width, 1, self.stride, name="proj_conv")(y)
        y = style.conv(self.width, 1, name="conv1")(y)
        y = nn.relu(style.norm(name="norm2")(y))
        y = style.conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(style.norm(name="norm3")(y))
        return shortcut + style.conv(4 * self.width, 1, name="conv3")(y)


class PostActivationBottleneck(nn.Module):
    """Norm after each convolution, ReLU after the sum (ResNet, arXiv:1512.03385, as in the hybrids of the ViT paper).

    The stride is that of the 3x3 convolution. The last norm's scale starts at zero, so that the unit starts as its
    shortcut.
    Parameters, float32: `conv1`, `norm1`, `conv2`, `norm2`, `conv3`, `norm3`; `proj_conv` and `proj_norm` for a
    projection.

    Attributes:
        width: channels inside; four times as many come out.
        stride: of the unit.
        style: of its convolutions and norms.
    """

    TENSOR: ClassVar[dict[str, int]] = TENSOR

    width: int
    stride: int
    style: ConvStyle

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow out"]:
        style, shortcut = self.style, x
        if _changes_shape(x, self.width, self.stride):
            shortcut = style.norm(name="proj_norm")(style.conv(4 * self.width, 1, self.stride, name="proj_conv")(x))
        y = nn.relu(style.norm(name="norm1")(style.conv(self.width, 1, name="conv1")(x)))
        y = nn.relu(style.norm(name="norm2")(style.conv(self.width, 3, self.stride, name="conv2")(y)))
        last_norm = functools.partial(style.norm, scale_init=nn.initializers.zeros)
        return nn.relu(shortcut + last_norm(name="norm3")(style.conv(4 * self.width, 1, name="conv3")(y)))


def _changes_shape(x: Float[Array, "b h w c"], width: int, stride: int) -> bool:
    return stride != 1 or x.shape[-1] != 4 * width
