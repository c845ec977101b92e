"""Residual units of convolutions with normalisation before or after each."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

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

    def norm(
        self, *, name: str, train: bool = False, scale_init: nn.initializers.Initializer = nn.initializers.ones
    ) -> GroupNorm:
        """A group norm in this style; it is the same in training."""
        return GroupNorm(self.num_groups, self.group_norm_epsilon, self.dtype, scale_init, name=name)


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
        if self.stride != 1 or x.shape[-1] != 4 * self.width:
            shortcut = style.conv(4 * self.width, 1, self.stride, name="proj_conv")(y)
        y = style.conv(self.width, 1, name="conv1")(y)
        y = nn.relu(style.norm(name="norm2")(y))
        y = style.conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(style.norm(name="norm3")(y))
        return shortcut + style.conv(4 * self.width, 1, name="conv3")(y)


class Style(Protocol):
    """Convolutions and norms of one network: `ConvStyle`, or another with its own."""

    def conv(self, width: int, kernel_size: int, stride: int = 1, *, name: str) -> nn.Module: ...

    def norm(self, *, name: str, train: bool, scale_init: nn.initializers.Initializer) -> Callable[[Array], Array]: ...


class PostActivationUnit(nn.Module):
    """Norm after each convolution, ReLU after the sum with a shortcut (ResNet, arXiv:1512.03385).

    1x1, 3x3 and 1x1 in a bottleneck, whose stride is that of the 3x3 convolution ("v1.5"); otherwise two 3x3.
    Parameters, float32: `conv1`, `norm1`, `conv2`, `norm2` (and `conv3`, `norm3`); `proj_conv` and `proj_norm` for a
    projection where the shape changes.

    Attributes:
        width: channels inside; a bottleneck gives four times as many.
        stride: of the unit.
        style: of its convolutions and norms.
        bottleneck: three convolutions instead of two.
        zero_init: the last norm's scale starts at zero, so that the unit starts as its shortcut (arXiv:1706.02677).
        averaged: a mean over stride x stride places, before the last convolution and before the shortcut's, instead of
            a convolution with a stride, which would drop what lies between (CLIP, arXiv:2103.00020, section 2.4).
    """

    TENSOR: ClassVar[dict[str, int]] = TENSOR

    width: int
    stride: int
    style: Style
    bottleneck: bool = True
    zero_init: bool = True
    averaged: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b oh ow out"]:
        width, out = self.width, self.width * (4 if self.bottleneck else 1)
        shape_changes = self.stride != 1 or x.shape[-1] != out
        stride, mean = (1, self.stride) if self.averaged else (self.stride, 1)
        # (channels, kernel, stride) of each convolution
        convs = (
            [(width, 1, 1), (width, 3, stride), (out, 1, 1)] if self.bottleneck else [(width, 3, stride), (out, 3, 1)]
        )

        ones, zeros = nn.initializers.ones, nn.initializers.zeros

        def normed(x: Array, conv: tuple[int, int, int], conv_name: str, norm_name: str, scale_init: Any) -> Array:
            x = self.style.conv(*conv, name=conv_name)(x)
            return self.style.norm(name=norm_name, train=train, scale_init=scale_init)(x)

        shortcut = x
        if shape_changes:
            shortcut = normed(averaged(x, mean), (out, 1, stride), "proj_conv", "proj_norm", ones)
        for i, conv in enumerate(convs, 1):
            last = i == len(convs)
            x = averaged(x, mean) if last else x
            x = normed(x, conv, f"conv{i}", f"norm{i}", zeros if last and self.zero_init else ones)
            x = x if last else nn.relu(x)
        return nn.relu(shortcut + x)


def averaged(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b oh ow c"]:
    """The mean of each square of size x size places; of places that make no whole one, nothing."""
    return x if size == 1 else nn.avg_pool(x, (size, size), (size, size))
