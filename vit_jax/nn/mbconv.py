"""Convolution blocks of mobile networks: a wide, cheap middle between two narrow ends, without a residual sum.

MBConv is the inverted bottleneck of MobileNetV2 (arXiv:1801.04381), FusedMBConv that of EfficientNetV2
(arXiv:2104.00298), DSConv the depthwise separable convolution of MobileNet (arXiv:1704.04861).
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.nn.activation import ACTIVATIONS, check_activation
from vit_jax.nn.batch_norm import BatchNorm
from vit_jax.nn.conv import Conv, ConvImplementation, check_conv_implementation
from vit_jax.nn.flops import product_flops

_INIT = nn.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class MobileStyle:
    """What all convolutions and norms of one network have in common, and how they are run.

    Args:
        activation: a name in `vit_jax.nn.activation.ACTIVATIONS`.
        norm_epsilon: added to the variance of every batch norm.
        zero_init: the last norm's scale of a depthwise block or of attention starts at zero where the block is a
            residual branch, which then starts as nothing (arXiv:1706.02677).
        dtype: dtype of the computation; parameters and statistics are float32.
        implementation: see `vit_jax.nn.conv.Conv`; never part of the architecture.

    Raises:
        UserError: for an unknown activation or implementation.
    """

    activation: str = "hard_swish"
    norm_epsilon: float = 1e-5
    zero_init: bool = True
    dtype: DTypeLike = jnp.float32
    implementation: ConvImplementation = "auto"

    def __post_init__(self):
        check_activation(self.activation)
        check_conv_implementation(self.implementation)


class ConvNorm(nn.Module):
    """A convolution that keeps the size of the map up to its stride; batch norm, or a bias instead; an activation.

    Parameters, float32: `conv`, and `norm` with its statistics in "batch_stats".

    Attributes:
        width: channels that come out.
        kernel_size: of the convolution, like `stride` and `groups`, see `vit_jax.nn.conv.Conv`.
        normalises: batch norm; otherwise the convolution has a bias.
        activates: an activation at the end.
        starts_at_zero: the norm's scale.
        style: see `MobileStyle`.
    """

    width: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    normalises: bool = True
    activates: bool = True
    starts_at_zero: bool = False
    style: MobileStyle = MobileStyle()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b oh ow width"]:
        style = self.style
        x = Conv(
            self.width, self.kernel_size, self.stride, self.groups, not self.normalises, dtype=style.dtype,
            kernel_init=_INIT, implementation=style.implementation, name="conv",
        )(x)  # fmt: skip
        if self.normalises:
            scale = nn.initializers.zeros if self.starts_at_zero else nn.initializers.ones
            x = BatchNorm(epsilon=style.norm_epsilon, dtype=style.dtype, scale_init=scale, name="norm")(x, train)
        return ACTIVATIONS[style.activation](x) if self.activates else x


@dataclasses.dataclass(frozen=True)
class Layer:
    """One of the convolutions of a block: the name and the attributes of its `ConvNorm`."""

    name: str
    width: int
    kernel_size: int
    stride: int = 1
    groups: int = 1


class ConvBlock(nn.Module):
    """Convolutions one after the other; all but the last have an activation. A subclass says which.

    Parameters: one `ConvNorm` under the name of each of `convolutions`.

    Attributes:
        width: channels that come out.
        stride: of the block.
        expand_ratio: channels in the middle for each that goes in.
        fewer_norm: only the last convolution has a batch norm, the others have a bias.
        residual: the block is a branch beside a shortcut, see `MobileStyle.zero_init`.
        style: see `MobileStyle`.
    """

    ZERO: ClassVar[bool] = False  # whether `MobileStyle.zero_init` is for this block

    width: int
    stride: int = 1
    expand_ratio: float = 1.0
    fewer_norm: bool = False
    residual: bool = False
    style: MobileStyle = MobileStyle()

    def convolutions(self, channels: int) -> list[Layer]:
        """Those of a block that gets so many channels."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b oh ow width"]:
        *inner, last = self.convolutions(x.shape[-1])
        for layer in inner:
            x = ConvNorm(**vars(layer), normalises=not self.fewer_norm, style=self.style)(x, train)
        zero = self.ZERO and self.residual and self.style.zero_init
        return ConvNorm(**vars(last), activates=False, starts_at_zero=zero, style=self.style)(x, train)

    def flops(self, channels: int, size: tuple[int, int]) -> float:
        """Of one map of so many channels and [h, w] places."""
        total = 0.0
        for layer in self.convolutions(channels):
            size = tuple(-(-side // layer.stride) for side in size)
            inputs = layer.kernel_size**2 * channels // layer.groups
            total += product_flops(size[0] * size[1], inputs, layer.width)
            channels = layer.width
        return total


class DSConv(ConvBlock):
    """A 3x3 convolution in each channel, and a 1x1 one across them; `expand_ratio` is nothing to it."""

    ZERO: ClassVar[bool] = True

    def convolutions(self, channels: int) -> list[Layer]:
        depthwise = Layer("depthwise", channels, 3, self.stride, groups=channels)
        return [depthwise, Layer("project", self.width, 1)]


class MBConv(ConvBlock):
    """1x1 to more channels, 3x3 in each of them, and 1x1 back."""

    # The middle is split, and the last product summed over devices.
    TENSOR: ClassVar[dict[str, int]] = {
        "expand/conv/kernel": 3, "expand/conv/bias": 0, "depthwise/conv/kernel": 3, "depthwise/conv/bias": 0,
        "project/conv/kernel": 2,
    }  # fmt: skip
    ZERO: ClassVar[bool] = True

    def convolutions(self, channels: int) -> list[Layer]:
        hidden = round(channels * self.expand_ratio)
        depthwise = Layer("depthwise", hidden, 3, self.stride, groups=hidden)
        return [Layer("expand", hidden, 1), depthwise, Layer("project", self.width, 1)]


class FusedMBConv(ConvBlock):
    """3x3 to more channels in one convolution, which accelerators run faster than a depthwise one, and 1x1 back."""

    TENSOR: ClassVar[dict[str, int]] = {"expand/conv/kernel": 3, "expand/conv/bias": 0, "project/conv/kernel": 2}

    def convolutions(self, channels: int) -> list[Layer]:
        return [Layer("expand", round(channels * self.expand_ratio), 3, self.stride), Layer("project", self.width, 1)]


class ResBlock(ConvBlock):
    """Two 3x3 convolutions."""

    TENSOR: ClassVar[dict[str, int]] = {"conv1/conv/kernel": 3, "conv1/conv/bias": 0, "conv2/conv/kernel": 2}

    def convolutions(self, channels: int) -> list[Layer]:
        return [Layer("conv1", round(channels * self.expand_ratio), 3, self.stride), Layer("conv2", self.width, 3)]
