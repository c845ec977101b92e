"""UPerNet's head: pooled context in the coarsest map, and a pyramid down to the finest (arXiv:1807.10221)."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.mbconv import ConvNorm, MobileStyle
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.resize import resize_maps
from vit_jax.nn.segmentation_head import MapShapes, SegmentationHead, classifier, places
from vit_jax.nn.trunk import Maps
from vit_jax.ranges import Count, Natural


class UPerNetHead(SegmentationHead):
    """Pyramid pooling (PSPNet, arXiv:1612.01105) of the coarsest map, a feature pyramid over all of them, their sum of
    channels at the finest, and in training a small convolutional head on the last map but one.

    Sizes and order are those of transformers' `UperNetForSemanticSegmentation`, which reads the weights of mmseg.
    Parameters: `norm_4`, ... by the stride, with `map_norms`; `pool_1`, ... by the scale, `bottleneck`, `lateral_4`,
    ..., `fpn_4`, ..., `fpn_bottleneck`, `classifier`; `auxiliary` and `auxiliary_classifier`. Statistics are in
    "batch_stats".

    Attributes:
        width: channels of every convolution.
        pool_scales: the coarsest map is averaged over so many rows and columns of parts.
        map_norms: a layer norm on every map but the last, which trunks of transformers normalise themselves; Swin's.
        auxiliary_width: channels of the head that only training has; 0 for none.
        dtype: compute dtype by name; parameters, statistics and logits are float32.
    """

    width: Count = 512
    pool_scales: Sequence[Count] = (1, 2, 3, 6)
    map_norms: bool = False
    auxiliary_width: Natural = 256
    dtype: Literal["float32", "bfloat16"] = "float32"

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> dict[str, Float[Array, "b h w k"]]:
        strides, last = sorted(maps), max(maps)
        if self.map_norms:
            maps = {
                stride: of if stride == last else LayerNorm(1e-5, of.dtype, name=f"norm_{stride}")(of)
                for stride, of in maps.items()
            }
        x = maps[last]
        pooled = [
            resize_maps(self._conv(1, f"pool_{scale}")(adaptive_mean(x, scale), train), x.shape[1:3], "half_pixel")
            for scale in self.pool_scales
        ]
        x = self._conv(3, "bottleneck")(jnp.concatenate([x, *pooled], axis=-1), train)
        levels = {last: x}
        for stride in reversed(strides[:-1]):
            lateral = self._conv(1, f"lateral_{stride}")(maps[stride], train)
            x = lateral + resize_maps(x, lateral.shape[1:3], "half_pixel")
            levels[stride] = self._conv(3, f"fpn_{stride}")(x, train)
        size = maps[strides[0]].shape[1:3]
        joined = jnp.concatenate([resize_maps(levels[stride], size, "half_pixel") for stride in strides], axis=-1)
        x = self._conv(3, "fpn_bottleneck")(joined, train)
        outputs = {"mask_logits": classifier(self.num_classes)(x)}
        if self.auxiliary_width and (train or self.is_initializing()):
            x = self._conv(3, "auxiliary", self.auxiliary_width)(maps[strides[-2:][0]], train)
            outputs["auxiliary_logits"] = classifier(self.num_classes, "auxiliary_classifier")(x)
        return outputs

    def _conv(self, kernel_size: int, name: str, width: int | None = None) -> ConvNorm:
        style = MobileStyle("relu", dtype=compute_dtype(self.dtype))
        return ConvNorm(width or self.width, kernel_size, style=style, name=name)

    def flops(self, maps: MapShapes) -> float:
        *finer, last = sorted(maps)
        width, channels = self.width, maps[last][2]
        total = sum(product_flops(scale**2, channels, width) for scale in self.pool_scales)
        total += product_flops(places(maps[last]), 9 * (channels + len(self.pool_scales) * width), width)
        for stride in finer:
            total += product_flops(places(maps[stride]), maps[stride][2], width)
            total += product_flops(places(maps[stride]), 9 * width, width)
        finest = places(maps[min(maps)])
        joined = product_flops(finest, 9 * len(maps) * width, width)
        return total + joined + product_flops(finest, width, self.num_classes)


def adaptive_mean(x: Float[Array, "b h w c"], parts: int) -> Float[Array, "b parts parts c"]:
    """Means over so many rows and columns of parts, which overlap where they do not divide the map: PyTorch's
    `AdaptiveAvgPool2d`."""
    rows, columns = (jnp.asarray(_means(side, parts)) for side in x.shape[1:3])
    precise = jax.lax.Precision.HIGHEST
    pooled = jnp.einsum("bhwc,ph,qw->bpqc", x.astype(jnp.float32), rows, columns, precision=precise)
    return pooled.astype(x.dtype)


def _means(side: int, parts: int) -> Float[np.ndarray, "parts side"]:
    place, part = np.arange(side), np.arange(parts)[:, None]
    inside = (place >= part * side // parts) & (place < -(-(part + 1) * side // parts))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
