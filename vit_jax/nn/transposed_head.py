"""A segmentation head of transposed convolutions, which double the sides of a map one after the other."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.nn.batch_norm import BatchNorm
from vit_jax.nn.conv import ConvTranspose
from vit_jax.nn.flops import product_flops
from vit_jax.nn.segmentation_head import MapShapes, SegmentationHead, classifier, places
from vit_jax.nn.trunk import Maps
from vit_jax.ranges import Count


class TransposedHead(SegmentationHead):
    """Transposed convolutions of the coarsest map with batch norm and ReLU, and a 1x1 convolution: the head of "Simple
    baselines for human pose estimation" (arXiv:1804.06208).

    Parameters, float32: `conv_0`, `norm_0`, ..., with statistics in "batch_stats", and `classifier`.

    Attributes:
        widths: channels behind each convolution.
        kernel_size: of their filters, an even number.
    """

    widths: tuple[Count, ...] = (256, 256, 256)
    kernel_size: Count = 4

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> dict[str, Float[Array, "b h w k"]]:
        x = maps[max(maps)].astype(jnp.float32)
        for i, width in enumerate(self.widths):
            padding = (self.kernel_size - 2) // 2  # of what is doubled nothing is left over
            x = ConvTranspose(width, self.kernel_size, 2, padding=padding, name=f"conv_{i}")(x)
            x = nn.relu(BatchNorm(name=f"norm_{i}")(x, train))
        return {"mask_logits": classifier(self.num_classes)(x)}

    def flops(self, maps: MapShapes) -> float:
        shape, total = maps[max(maps)], 0.0
        for width in self.widths:
            total += product_flops(places(shape), shape[2], self.kernel_size**2 * width)
            shape = (2 * shape[0], 2 * shape[1], width)
        return total + product_flops(places(shape), shape[2], self.num_classes)
