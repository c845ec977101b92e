"""The trunk of a residual network: a root, and stages of units of which each halves the map of the one before."""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.nn.flops import product_flops
from vit_jax.nn.images import check_images
from vit_jax.nn.trunk import Layers, Maps, Trunk


def unit_name(stage: int, unit: int) -> str:
    """The name of a unit's parameters; both count from 0, the names from 1 as in the papers."""
    return f"stage{stage + 1}_unit{unit + 1:02d}"


class ResidualTrunk(Trunk):
    """The order of the units, the pyramid of maps, and the counts; a subclass says what root and units are.

    Attributes:
        stage_sizes: units in each stage; each stage but the first halves the map. () is the root alone.
        width: channels of the root; the units of stage i have width * 2**i, a bottleneck gives four times as many.
    """

    ROOT: ClassVar[tuple[str, ...]]  # names of the root's parameters

    stage_sizes: Sequence[int]
    width: int

    @property
    def root_stride(self) -> int:
        return 4

    @property
    def stride(self) -> int:
        """Of the last map."""
        return self.root_stride * 2 ** max(len(self.stage_sizes) - 1, 0)

    @property
    def channels(self) -> int:
        """Of the last map, from bottlenecks."""
        return self.width * 2 ** (len(self.stage_sizes) + 1) if self.stage_sizes else self.width

    def root(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b oh ow out"]:
        raise NotImplementedError

    def unit(self, x: Float[Array, "b h w c"], width: int, stride: int, train: bool, name: str) -> Array:
        raise NotImplementedError

    def last(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """What comes after the last stage."""
        return x

    @nn.compact
    def encode(self, images: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b t d"], Maps]:
        """See `Trunk`: the maps after each stage, and the places of the last one as tokens."""
        check_images(images)
        x, stride = self.root(images, train), self.root_stride
        maps = {stride: x}
        for stage, size in enumerate(self.stage_sizes):
            for unit in range(size):
                step = 2 if stage > 0 and unit == 0 else 1
                x = self.unit(x, self.width * 2**stage, step, train, unit_name(stage, unit))
                stride *= step
            maps[stride] = x
        x = maps[stride] = self.last(x)
        return x.reshape(x.shape[0], -1, x.shape[-1]), maps

    def layers(self) -> Layers:
        """Root, then unit after unit."""
        units = [(unit_name(stage, i),) for stage, size in enumerate(self.stage_sizes) for i in range(size)]
        return (self.ROOT, *units)

    def flops(self, image_size: tuple[int, int]) -> float:
        """Those of all convolutions."""

        def places(stride: int) -> int:
            return -(-image_size[0] // stride) * -(-image_size[1] // stride)

        total = sum(product_flops(places(at), inputs, out) for inputs, out, at in self.root_convolutions())
        stride, channels = self.root_stride, self.width
        for stage, size in enumerate(self.stage_sizes):
            for unit in range(size):
                before, stride = stride, stride * (2 if stage > 0 and unit == 0 else 1)
                width = self.width * 2**stage
                # (inputs and outputs of each place, the stride at which there are places)
                convs = self.convolutions(channels, width, before, stride)
                out = convs[-1][1]
                if before != stride or channels != out:
                    convs.append((channels, out, stride))
                total += sum(product_flops(places(at), inputs, outputs) for inputs, outputs, at in convs)
                channels = out
        return total

    def root_convolutions(self) -> list[tuple[int, int, int]]:
        """Those of the root, see `convolutions`."""
        kernel, after = (7, 2) if self.root_stride == 4 else (3, 1)
        return [(3 * kernel**2, self.width, after)]

    def convolutions(self, channels: int, width: int, before: int, after: int) -> list[tuple[int, int, int]]:
        """Of a unit: (inputs, outputs, stride of the map) of the matrix that a convolution is at each place."""
        return [(channels, width, before), (9 * width, width, after), (width, 4 * width, after)]
