"""The segmentation head of EfficientViT (arXiv:2205.14756), as in the authors' code, models/efficientvit/seg.py."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.nn.conv import ConvImplementation
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.map_fusion import MapFusion
from vit_jax.nn.mbconv import ConvNorm, MobileStyle
from vit_jax.nn.segmentation_head import MapShapes, SegmentationHead, classifier, places
from vit_jax.nn.trunk import Maps
from vit_jax.ranges import Count, Natural, Positive


class EfficientViTHead(SegmentationHead):
    """Maps made one, see `MapFusion`; a wider 1x1 convolution where `final_expand` says so; a 1x1 convolution.

    Parameters: `fusion`, `expand`, `classifier`; statistics in "batch_stats".

    Attributes:
        width: of the fused map, like `depth`, `block`, `expand_ratio` and `strides` see `MapFusion`.
        final_expand: times as many channels before the last convolution; None leaves that convolution out.
        activation: see `MobileStyle`, like `norm_epsilon`.
        dtype: compute dtype by name; parameters, statistics and logits are float32.
        conv_implementation: see `vit_jax.nn.conv.Conv`.
    """

    width: Count = 64
    depth: Natural = 3
    block: Literal["mb", "fmb"] = "mb"
    expand_ratio: Positive = 4.0
    final_expand: Count | None = 4
    strides: Sequence[Count] = (32, 16, 8)
    activation: str = "hard_swish"
    norm_epsilon: Positive = 1e-5
    dtype: Literal["float32", "bfloat16"] = "float32"
    conv_implementation: ConvImplementation = "auto"

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> dict[str, Float[Array, "b h w k"]]:
        x = self._fusion(name="fusion")(maps, train)
        if self.final_expand is not None:
            x = ConvNorm(self.final_expand * self.width, 1, style=self._style, name="expand")(x, train)
        return {"mask_logits": classifier(self.num_classes)(x)}

    def flops(self, maps: MapShapes) -> float:
        count, width = places(maps[min(self.strides)]), self.width
        wide = width * (self.final_expand or 1)
        expand = 0.0 if self.final_expand is None else product_flops(count, width, wide)
        fusion = self._fusion(parent=None).flops(maps)
        return fusion + expand + product_flops(count, wide, self.num_classes)

    @property
    def _style(self) -> MobileStyle:
        return MobileStyle(
            self.activation, self.norm_epsilon, True, compute_dtype(self.dtype), self.conv_implementation
        )

    def _fusion(self, **named: str | None) -> MapFusion:
        return MapFusion(
            tuple(self.strides), self.width, self.depth, self.block, self.expand_ratio, style=self._style, **named
        )
