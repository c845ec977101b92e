"""Convolutions with padding that is spelled out: as BiT builds them, in groups, and transposed."""

import functools
import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.platform import platform
from vit_jax.nn.products import product

ConvImplementation = Literal["auto", "products", "convolution"]
Padding = Literal["fixed", "same"]
EpsilonIn = Literal["variance", "deviation"]
PoolPadding = Literal["zeros", "lowest"]

_PADDINGS = ("fixed", "same")
_EPSILONS_IN = ("variance", "deviation")
_POOL_PADDINGS = ("zeros", "lowest")

_MOST_PARTS = 8  # of a batch that the gradient of a depthwise convolution adds up by hand


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
    return max_of_windows(x, 3, 2, around)


def max_of_windows(
    x: Float[Array, "b h w c"], window: int, stride: int, padding: Sequence[tuple[int, int]]
) -> Float[Array, "b oh ow c"]:
    """The largest of each square window; what is around the map is less than everything.

    Padded by hand, which XLA makes one operation of: converters to other formats replace `nn.max_pool` by a function of
    their own, which takes arguments by name and does not pad.
    """
    if any(map(any, padding)):
        x = jnp.pad(x, [(0, 0), *padding, (0, 0)], constant_values=-jnp.inf)
    return nn.max_pool(x, window_shape=(window, window), strides=(stride, stride), padding="VALID")


def check_conv_implementation(implementation: str) -> None:
    """Raises a UserError for an unknown implementation."""
    known = get_args(ConvImplementation)
    if implementation not in known:
        raise UserError(f"Unknown conv_implementation {implementation!r}", nearest(implementation, known))


def chosen_implementation(implementation: ConvImplementation) -> ConvImplementation:
    """What "auto" comes to on the platform that is traced for; the implementation itself otherwise, see `Conv`.

    Raises:
        UserError: for an unknown implementation.
    """
    check_conv_implementation(implementation)
    if implementation == "auto":
        return "products" if platform() == "cpu" else "convolution"
    return implementation


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw per_group width"],
    *,
    stride: int = 1,
    pads: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
    implementation: ConvImplementation = "auto",
) -> Float[Array, "b oh ow width"]:
    """A convolution in C / per_group groups, which follow each other in the channels of input and output.

    Args:
        stride: of the windows.
        pads: zeros before and after each spatial axis.
        implementation: see `Conv`.

    Raises:
        UserError: when the groups divide the channels or the width not, or for an unknown implementation.
    """
    channels, (per_group, width) = x.shape[-1], kernel.shape[2:]
    groups = channels // per_group
    if groups * per_group != channels or width % groups:
        raise UserError(
            f"A convolution of {channels} channels to {width} cannot take {per_group} at a time",
            "The groups must divide both",
        )
    if chosen_implementation(implementation) == "products":
        if kernel.shape[:2] == (1, 1) and stride == 1 and not any(map(any, pads)):
            return _one_by_one(x, kernel, groups)
        if per_group == 1 and width == channels > 1:
            return _depthwise(x, kernel[:, :, 0], stride, tuple(map(tuple, pads)))
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def _one_by_one(x: Array, kernel: Array, groups: int) -> Array:
    """A product of matrices for each group."""
    _, _, per_group, width = kernel.shape
    if groups == 1:
        return product(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    matrices = kernel.reshape(per_group, groups, width // groups)
    grouped = x.reshape(*x.shape[:3], groups, per_group)
    return jnp.einsum("bhwgi,igo->bhwgo", grouped, matrices).reshape(*x.shape[:3], width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: Array, kernel: Array, stride: int, pads: tuple[tuple[int, int], ...]) -> Array:
    """One filter [kh, kw] a channel: the sum over its places of the shifted image times what the filter has there."""
    shifted = _shifted(x, kernel.shape[:2], stride, pads)
    return sum(view * kernel[i, j] for (i, j), view in shifted.items())


def _shifted(x: Array, sides: Sequence[int], stride: int, pads: Sequence[tuple[int, int]]) -> dict:
    """By its place (i, j) in the filter: what the filter's windows have there, [B, oh, ow, C]."""
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = (stride * ((n - k) // stride) + 1 for n, k in zip(padded.shape[1:3], sides, strict=True))
    places = itertools.product(*map(range, sides))
    return {(i, j): padded[:, i : i + height : stride, j : j + width : stride] for i, j in places}


def _depthwise_forward(x: Array, kernel: Array, stride: int, pads: tuple) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel, stride, pads), (x, kernel)


def _depthwise_backward(stride: int, pads: tuple, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    shifted = functools.partial(_shifted, sides=kernel.shape[:2], stride=stride, pads=pads)
    if stride == 1:  # the same with the filter turned round, which reads where adding up shifts would write
        around = tuple((k - 1 - p, k - 1 - q) for k, (p, q) in zip(kernel.shape, pads, strict=False))
        of_x = _depthwise(gradient, kernel[::-1, ::-1], 1, around)
    else:

        def forward(x: Array) -> Array:
            return sum(view * kernel[i, j] for (i, j), view in shifted(x).items())

        of_x = jax.vjp(forward, x)[1](gradient)[0]
    cut = functools.partial(_parts, examples=_divisor(len(x), _MOST_PARTS), most=_MOST_PARTS)
    gradients = [part.astype(jnp.float32) for part in cut(gradient)]

    def added(view: Array) -> Array:
        """Over examples, and some of the rows."""
        products = (part * of_part for part, of_part in zip(cut(view), gradients, strict=True))
        return sum(products).reshape(-1, view.shape[-1])

    # XLA's CPU compiler sums up columns one number after the other. So a few parts are added up by hand, in vectors,
    # which also leaves little of each place to be held, and the rest of the sum is a product with ones.
    rows = jnp.stack([added(view) for view in shifted(x).values()])
    of_kernel = jnp.einsum("n,knc->kc", jnp.ones(rows.shape[1]), rows).reshape(kernel.shape)
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


def _divisor(count: int, most: int) -> int:
    """The largest one that is not above `most`."""
    return max(n for n in range(1, most + 1) if count % n == 0)


def _parts(images: Array, examples: int, most: int) -> list[Array]:
    """Equal parts, at most `most`: so many of the examples, each cut into bands of rows as far as that allows."""
    bands = _divisor(images.shape[1], most // examples)
    height = images.shape[1] // bands
    return [part[:, i * height : (i + 1) * height] for part in jnp.split(images, examples) for i in range(bands)]


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


class Conv(nn.Module):
    """A convolution with as many zeros on both sides, as PyTorch counts them: Flax's SAME shifts the map by a pixel
    where the stride is 2.

    Parameters, float32: `kernel` [k, k, C / groups, width], and `bias` [width].

    Attributes:
        width: channels that come out.
        kernel_size: side of the filters.
        stride: of the filters.
        groups: into which the channels are divided; as many as channels for a depthwise convolution.
        use_bias: whether there is a bias.
        padding: zeros on each side; None for half of the kernel, which keeps the size at a stride of 1.
        dtype: dtype of the convolution and of the result.
        kernel_init: of the filters.
        implementation: how it is run, which changes results by rounding alone. "convolution" is XLA's. "products" is
            for CPUs, where XLA's convolutions in groups are slow: a depthwise one is a sum of shifted products (about
            20 times as fast), a 1x1 one a matrix product for each group; all others are XLA's. "auto" is products on a
            CPU and the convolution elsewhere.
    """

    width: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    use_bias: bool = True
    padding: int | None = None
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    implementation: ConvImplementation = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow width"]:
        k, around = self.kernel_size, self.kernel_size // 2 if self.padding is None else self.padding
        kernel = self.param("kernel", self.kernel_init, (k, k, x.shape[-1] // self.groups, self.width))
        x = convolve(
            x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride, pads=[(around, around)] * 2,
            implementation=self.implementation,
        )  # fmt: skip
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        return x


class ConvTranspose(nn.Module):
    """A transposed convolution, the gradient of a convolution by its input: PyTorch's `ConvTranspose2d`.

    An image of n pixels becomes one of (n - 1) * stride - 2 * padding + kernel_size + output_padding.
    Parameters, float32: `kernel` [k, k, width, C], which is PyTorch's [C, width, k, k], and `bias` [width].

    Attributes:
        width: channels that come out.
        kernel_size: side of the filters.
        stride: pixels for each pixel.
        use_bias: whether there is a bias.
        padding: rows and columns that are left out on each side.
        output_padding: rows and columns that are added behind.
        dtype: dtype of the convolution and of the result.
        kernel_init: of the filters.
        implementation: see `Conv`. Where filters do not overlap "products" is one matrix product.
    """

    width: int
    kernel_size: int
    stride: int
    use_bias: bool = True
    padding: int = 0
    output_padding: int = 0
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.variance_scaling(1.0, "fan_in", "normal", -1, -2)
    implementation: ConvImplementation = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow width"]:
        k, width = self.kernel_size, self.width
        kernel = self.param("kernel", self.kernel_init, (k, k, width, x.shape[-1])).astype(self.dtype)
        x = x.astype(self.dtype)
        apart = k == self.stride and not self.padding and not self.output_padding
        if apart and chosen_implementation(self.implementation) == "products":
            b, h, w, _ = x.shape
            rows = kernel.reshape(-1, x.shape[-1])
            blocks = product(x, rows.T, (((3,), (0,)), ((), ()))).reshape(b, h, w, k, k, width)
            x = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * k, w * k, width)
        else:
            before = k - 1 - self.padding
            x = jax.lax.conv_transpose(
                x, kernel, (self.stride, self.stride), [(before, before + self.output_padding)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True,
            )  # fmt: skip
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (width,)).astype(self.dtype)
        return x
