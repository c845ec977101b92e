"""How different two images look to a network: distances of its feature maps."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.nn.trunk import Maps

# What LPIPS subtracts from images in -1..1, and divides them by, before its network sees them.
LPIPS_MEAN = (-0.030, -0.088, -0.188)
LPIPS_STD = (0.458, 0.448, 0.450)


def seen_by(
    images: Float[Array, "b h w 3"], mean: tuple[float, ...] = LPIPS_MEAN, std: tuple[float, ...] = LPIPS_STD
) -> Float[Array, "b h w 3"]:
    """Images in -1..1 as a network takes them that was trained with other statistics, by default LPIPS's."""
    return (images - jnp.array(mean)) / jnp.array(std)


def unit_channels(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each place divided by its length and 1e-10, float32. Where all channels are 0 it stays so, without a gradient."""
    x = x.astype(jnp.float32)
    squares = jnp.square(x).sum(-1, keepdims=True)
    some = squares > 0  # the gradient of a root of 0 is not finite
    return jnp.where(some, x / (jnp.sqrt(jnp.where(some, squares, 1)) + 1e-10), 0)


def map_distance(
    first: Maps, second: Maps, weights: Mapping[int, Float[Array, " c"]] | None = None
) -> Float[Array, " b"]:
    """The distance of each image of `first` from that of `second` by their maps, float32.

    At each place channels are divided by their length; the squares of their differences are weighed and added up, and
    the mean is taken over places and the sum over maps (LPIPS, arXiv:1801.03924, equation 1).

    Args:
        weights: of the channels, by the stride of a map, see `vit_jax.nn.lpips_weights.lpips_weights`; None for 1
            each, and then the mean over maps, so that it is in 0..4.
    """
    total = jnp.float32(0)
    for stride, found in first.items():
        squares = jnp.square(unit_channels(found) - unit_channels(second[stride]))
        weighed = squares.sum(-1) if weights is None else squares @ jnp.asarray(weights[stride], jnp.float32)
        total += weighed.mean((1, 2))
    return total / len(first) if weights is None else total
