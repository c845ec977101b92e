"""A few convolutions, for images of a few pixels: a classifier that learns in a minute, by which others are judged."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.trunk import Classifier, Layers, Maps, Trunk
from vit_jax.ranges import Count, Natural

_HE = nn.initializers.he_normal()


class SmallConvEncoder(Trunk):
    """Convolutions of 3x3 with biases, each with ReLU after it; all but the first halve the map.

    Parameters: `conv1`, `conv2`, ...

    Attributes:
        widths: channels of each.
        dtype: dtype of the computation.
    """

    widths: tuple[int, ...]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def encode(self, images: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b t d"], Maps]:
        del train
        x, maps = images.astype(self.dtype), {}
        for i, width in enumerate(self.widths):
            stride = 2 if i else 1
            conv = nn.Conv(
                width, (3, 3), (stride, stride), padding=1, kernel_init=_HE, dtype=self.dtype, name=f"conv{i + 1}"
            )
            x = nn.relu(conv(x))
            maps[2**i] = x
        return x.reshape(x.shape[0], -1, x.shape[-1]), maps

    def layers(self) -> Layers:
        return tuple((f"conv{i + 1}",) for i in range(len(self.widths)))

    def flops(self, image_size: tuple[int, int]) -> float:
        height, width = image_size
        total, channels = 0.0, 3
        for i, out in enumerate(self.widths):
            places = -(-height // 2**i) * -(-width // 2**i)
            total += 2.0 * 9 * channels * out * places
            channels = out
        return total


def build(
    *,
    num_classes: Natural,
    widths: Sequence[Count] = (32, 64, 64),
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Classifier:
    """The encoder, the mean over all places, whose features are as many as the last convolution is wide, and a head.

    Args:
        widths: see `SmallConvEncoder`.
        dtype: compute dtype by name; parameters are always float32.

    Raises:
        UserError: for no convolution.
    """
    if not widths:
        raise UserError("A network of no convolution", "Give widths such as (32, 64, 64)")
    return Classifier(SmallConvEncoder(tuple(widths), compute_dtype(dtype), parent=None), num_classes)
