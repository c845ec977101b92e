"""What turns the maps of a trunk into a class for each place: the contract of heads, and the linear one."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.batch_norm import BatchNorm
from vit_jax.nn.conv import Conv
from vit_jax.nn.flops import product_flops
from vit_jax.nn.resize import resize_maps
from vit_jax.nn.trunk import Maps
from vit_jax.ranges import Count

# Height, width and channels of maps by their stride.
MapShapes = Mapping[int, tuple[int, int, int]]


class SegmentationHead(nn.Module):
    """A head under the name `head` of a model.

    Attributes:
        num_classes: of the logits.
    """

    num_classes: int

    # A transformer's last blocks of which the map shall hold what each gives, see `ViTEncoder.encode`.
    layers = 1

    def __call__(self, maps: Maps, train: bool = False) -> dict[str, Float[Array, "b h w k"]]:
        """Scores of the classes at the places of some stride.

        Returns:
            "mask_logits" [B, h, w, K] float32; in training also "auxiliary_logits" [B, h2, w2, K] of a head that has a
            second answer to learn by.
        """
        raise NotImplementedError

    def flops(self, maps: MapShapes) -> float:
        """Of one image in evaluation, see `vit_jax.nn.flops`."""
        raise NotImplementedError


def places(shape: tuple[int, int, int]) -> int:
    """How many a map of this shape has."""
    return shape[0] * shape[1]


def classifier(num_classes: int, name: str = "classifier") -> Conv:
    """The last convolution of a head of the module that calls this: 1x1, in float32."""
    return Conv(num_classes, 1, kernel_init=nn.initializers.normal(0.01), name=name)


class LinearHead(SegmentationHead):
    """Batch normalisation and a 1x1 convolution: DINOv2's linear segmentation (arXiv:2304.07193, section 7.4).

    Parameters, float32: `norm`, with its statistics in "batch_stats", and `classifier`.

    Attributes:
        last: so many last maps are taken side by side. Of a transformer, whose places are the same in every layer,
            these are those of its last blocks ("+ms" of the paper: 4); of a trunk whose maps halve they are resized
            bilinearly to the finest of them.
    """

    last: Count = 1

    @property
    def layers(self) -> int:
        return self.last

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> dict[str, Float[Array, "b h w k"]]:
        strides = self._strides(maps)
        size = maps[min(strides)].shape[1:3]
        taken = [resize_maps(maps[stride].astype(jnp.float32), size, "half_pixel") for stride in strides]
        x = BatchNorm(name="norm")(jnp.concatenate(taken, axis=-1), train)
        return {"mask_logits": classifier(self.num_classes)(x)}

    def flops(self, maps: MapShapes) -> float:
        strides = self._strides(maps)
        channels = sum(maps[stride][2] for stride in strides)
        return product_flops(places(maps[min(strides)]), channels, self.num_classes)

    def _strides(self, maps: Mapping[int, object]) -> list[int]:
        """Of the maps that are taken; one map holds what several layers give."""
        strides = sorted(maps)
        if len(strides) == 1:
            return strides
        if len(strides) < self.last:
            raise UserError(
                f"A linear head cannot take the last {self.last} of {len(strides)} maps", f"Set last={len(strides)}"
            )
        return strides[-self.last :]
