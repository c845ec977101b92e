"""Residual networks ("Deep residual learning for image recognition", arXiv:1512.03385) with batch normalisation.

The stride of a bottleneck is that of its 3x3 convolution ("v1.5"), as in PyTorch and in SimCLR.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.batch_norm import BatchNorm
from vit_jax.nn.bottleneck import PostActivationUnit
from vit_jax.nn.conv import max_of_windows
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.residual import ResidualTrunk
from vit_jax.nn.trunk import Classifier
from vit_jax.ranges import Count, Natural

# Units in each of the four stages, and whether they are bottlenecks (table 1 of the paper).
VARIANTS = {
    "18": ((2, 2, 2, 2), False),
    "34": ((3, 4, 6, 3), False),
    "50": ((3, 4, 6, 3), True),
    "101": ((3, 4, 23, 3), True),
    "152": ((3, 8, 36, 3), True),
}
PUBLISHED = tuple(VARIANTS)
_STEMS = ("imagenet", "cifar")
_HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class BatchStyle:
    """Convolutions that pad as PyTorch does, since Flax's SAME pads strided ones unevenly, and batch normalisation."""

    dtype: DTypeLike = jnp.float32

    def conv(self, width: int, kernel_size: int, stride: int = 1, *, name: str) -> nn.Conv:
        """A convolution without a bias."""
        return nn.Conv(
            width, (kernel_size, kernel_size), (stride, stride), padding=kernel_size // 2, use_bias=False,
            kernel_init=_HE, dtype=self.dtype, name=name,
        )  # fmt: skip

    def norm(
        self, *, name: str, train: bool, scale_init: nn.initializers.Initializer = nn.initializers.ones
    ) -> Callable[[Array], Array]:
        """By the statistics of the batch in training, by those that training saw otherwise."""
        return functools.partial(BatchNorm(dtype=self.dtype, scale_init=scale_init, name=name), train=train)


class ResNetEncoder(ResidualTrunk):
    """Stem and four stages: the trunk `params["encoder"]`.

    Parameters: `conv1` and `norm1` of the stem, `stage1_unit01`, `stage1_unit02`, ..., `stage4_unit03`; statistics of
    the norms in the collection "batch_stats".

    Attributes:
        stage_sizes: see `ResidualTrunk`, like `width`.
        bottleneck: see `vit_jax.nn.bottleneck.PostActivationUnit`, like `zero_init`.
        dtype: dtype of the computation.
        stem: "imagenet" divides height and width by 4 (a 7x7 convolution and a max pooling), "cifar" keeps them (a 3x3
            convolution; SimCLR, section B.9).
    """

    ROOT: ClassVar[tuple[str, ...]] = ("conv1", "norm1")

    bottleneck: bool = True
    zero_init: bool = True
    stem: Literal["imagenet", "cifar"] = "imagenet"
    dtype: DTypeLike = jnp.float32

    @property
    def root_stride(self) -> int:
        return 1 if self.stem == "cifar" else 4

    def root(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b oh ow out"]:
        kernel, stride = (3, 1) if self.stem == "cifar" else (7, 2)
        style = BatchStyle(self.dtype)
        x = style.conv(self.width, kernel, stride, name="conv1")(images.astype(self.dtype))
        x = nn.relu(style.norm(name="norm1", train=train)(x))
        return x if self.stem == "cifar" else max_of_windows(x, 3, 2, [(1, 1), (1, 1)])

    def unit(self, x: Float[Array, "b h w c"], width: int, stride: int, train: bool, name: str) -> Array:
        style = BatchStyle(self.dtype)
        return PostActivationUnit(width, stride, style, self.bottleneck, self.zero_init, name=name)(x, train)

    def convolutions(self, channels: int, width: int, before: int, after: int) -> list[tuple[int, int, int]]:
        if self.bottleneck:
            return super().convolutions(channels, width, before, after)
        return [(9 * channels, width, after), (9 * width, width, after)]


class ResNet(Classifier):
    """An image classifier: the encoder, the mean over all places, and a linear head that starts at zero."""

    @classmethod
    def from_variant(
        cls,
        variant: str | int,
        *,
        num_classes: Natural,
        depths: Sequence[Count] | None = None,
        width: Count = 64,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        zero_init: bool = True,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """A network of a published depth, from values that JSON can hold.

        Args:
            variant: "18", "34", "50", "101" or "152".
            num_classes: see `ResNet`.
            depths: units in each stage, instead of the variant's.
            width: channels of the first stage's units, see `ResNetEncoder`; SimCLR's 2x and 4x have 128 and 256.
            stem: see `ResNetEncoder`, like `zero_init`.
            dtype: compute dtype by name; parameters and statistics are always float32.

        Raises:
            UserError: for an unknown variant or value.
        """
        for what, name, known in (("ResNet", str(variant), VARIANTS), ("stem", stem, _STEMS)):
            if name not in known:
                raise UserError(f"There is no {what} named {name!r}", nearest(name, known))
        of_variant, bottleneck = VARIANTS[str(variant)]
        depths = tuple(of_variant if depths is None else depths)
        if not depths or not all(isinstance(depth, int) and depth > 0 for depth in depths):
            raise UserError(f"depths={depths} is not a number of units for each stage", "Give one such as (2, 2, 2, 2)")
        encoder = ResNetEncoder(
            stage_sizes=depths, width=width, bottleneck=bottleneck, zero_init=zero_init, stem=stem,
            dtype=compute_dtype(dtype), parent=None,
        )  # fmt: skip
        return cls(encoder=encoder, num_classes=num_classes)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = ResNet.from_variant
