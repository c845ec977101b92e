"""Maps of several strides made one: the neck and the head of EfficientViT's dense models."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.flops import product_flops
from vit_jax.nn.mbconv import ConvBlock, ConvNorm, FusedMBConv, MBConv, MobileStyle
from vit_jax.nn.resize import resize_maps
from vit_jax.nn.stack import block_name
from vit_jax.nn.trunk import Maps

_BLOCKS = {"mb": MBConv, "fmb": FusedMBConv}


class MapFusion(nn.Module):
    """A 1x1 convolution of each map, all of them resized to one size and added up, then residual blocks.

    As in the authors' code (github.com/mit-han-lab/efficientvit, models/efficientvit/seg.py and sam.py); the resizing
    is PyTorch's bicubic without antialiasing. Parameters: `input_32`, ... by the stride, and `block_00`, ...;
    statistics of the norms in the collection "batch_stats".

    Attributes:
        strides: of the maps that are taken.
        width: channels that come out.
        depth: blocks.
        block: MBConv ("mb") or FusedMBConv ("fmb").
        expand_ratio: of the blocks.
        size: [h, w] that comes out; None for that of the finest map.
        style: see `MobileStyle`.
    """

    strides: tuple[int, ...]
    width: int
    depth: int
    block: Literal["mb", "fmb"] = "fmb"
    expand_ratio: float = 1.0
    size: tuple[int, int] | None = None
    style: MobileStyle = MobileStyle()

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> Float[Array, "b h w width"]:
        """One map.

        Raises:
            UserError: for a trunk without a map of one of the strides.
        """
        self._check(maps)
        size = self.size or maps[min(self.strides)].shape[1:3]
        narrow = [
            ConvNorm(self.width, 1, activates=False, style=self.style, name=f"input_{stride}")(maps[stride], train)
            for stride in self.strides
        ]
        x = sum(resize_maps(each, size, "bicubic") for each in narrow)
        for i in range(self.depth):
            x = x + self._block(name=block_name(i))(x, train)
        return x

    def flops(self, maps: Mapping[int, tuple[int, int, int]]) -> float:
        """Of one image, see `vit_jax.nn.flops`; resizing is not counted.

        Args:
            maps: height, width and channels by stride.
        """
        self._check(maps)
        size = self.size or maps[min(self.strides)][:2]
        inputs = sum(product_flops(h * w, c, self.width) for h, w, c in (maps[stride] for stride in self.strides))
        return inputs + self.depth * self._block(parent=None).flops(self.width, size)

    def _check(self, maps: Mapping[int, object]) -> None:
        if missing := [stride for stride in self.strides if stride not in maps]:
            raise UserError(
                f"The trunk has no map at a stride of {missing[0]} pixels but at {', '.join(map(str, sorted(maps)))}",
                "Take another trunk, or strides that it has",
            )

    def _block(self, **named: str | None) -> ConvBlock:
        return _BLOCKS[self.block](self.width, 1, self.expand_ratio, residual=True, style=self.style, **named)
