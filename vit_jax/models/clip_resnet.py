"""The ResNets of CLIP and their published sizes (Radford et al., "Learning transferable visual models from natural
language supervision", arXiv:2103.00020, section 2.4 and table 19).

Three changes make them of a ResNet: three convolutions and a mean begin it instead of one and a maximum; a map is
halved by a mean, after which a convolution has no stride; and features come from an attention that the mean of the map
asks.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.models.resnet import BatchStyle
from vit_jax.models.vit_variants import resized
from vit_jax.naming import nearest
from vit_jax.nn.bottleneck import PostActivationUnit, averaged
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.pool import MeanQueryPool
from vit_jax.nn.posemb import RESIZES, PosembResize
from vit_jax.nn.residual import ResidualTrunk
from vit_jax.nn.style import check_choice
from vit_jax.nn.trunk import Classifier, Maps, logits
from vit_jax.ranges import Count, Natural


@dataclasses.dataclass(frozen=True)
class Variant:
    """A published size.

    Args:
        depths: units of the four stages.
        width: channels of the first stage's units; 32 times as many are in the last map.
        features: what comes out, which is compared with texts as it is.
        image_size: side in pixels of the images that it was trained on.
    """

    depths: tuple[int, ...]
    width: int
    features: int
    image_size: int


VARIANTS = {
    "RN50": Variant((3, 4, 6, 3), 64, 1024, 224),
    "RN101": Variant((3, 4, 23, 3), 64, 512, 224),
    "RN50x4": Variant((4, 6, 10, 6), 80, 640, 288),
    "RN50x16": Variant((6, 8, 18, 8), 96, 768, 384),
    "RN50x64": Variant((3, 15, 36, 10), 128, 1024, 448),
}
PUBLISHED = tuple(VARIANTS)


class ClipResNetEncoder(ResidualTrunk):
    """Stem and stages: the trunk `params["encoder"]`.

    Parameters: `conv1`, `norm1`, ..., `conv3`, `norm3` of the stem, `stage1_unit01`, ...; statistics of the norms in
    the collection "batch_stats".

    Attributes:
        stage_sizes: see `ResidualTrunk`, like `width`, which is even.
        dtype: dtype of the computation.
    """

    ROOT: ClassVar[tuple[str, ...]] = ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3")

    dtype: DTypeLike = jnp.float32

    def root(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b oh ow out"]:
        style, x = BatchStyle(self.dtype), images.astype(self.dtype)
        for i, (width, stride) in enumerate(((self.width // 2, 2), (self.width // 2, 1), (self.width, 1)), 1):
            x = style.conv(width, 3, stride, name=f"conv{i}")(x)
            x = nn.relu(style.norm(name=f"norm{i}", train=train)(x))
        return averaged(x, 2)

    def unit(self, x: Float[Array, "b h w c"], width: int, stride: int, train: bool, name: str) -> Array:
        return PostActivationUnit(width, stride, BatchStyle(self.dtype), averaged=True, name=name)(x, train)

    def root_convolutions(self) -> list[tuple[int, int, int]]:
        half = self.width // 2
        return [(9 * 3, half, 2), (9 * half, half, 2), (9 * half, self.width, 2)]

    def convolutions(self, channels: int, width: int, before: int, after: int) -> list[tuple[int, int, int]]:
        return [(channels, width, before), (9 * width, width, before), (width, 4 * width, after)]


class ClipResNet(Classifier):
    """An image model: the encoder, the attention pooling, and with classes a linear head that starts at zero.

    Parameters: `encoder`; `pool`, see `MeanQueryPool`; `head` with classes.

    Attributes:
        encoder: see `ClipResNetEncoder`.
        num_classes: see `Classifier`, like `head_bias_init`.
        features: D, what the pooling gives and the head sees.
        num_heads: of the pooling.
    """

    features: int = 1024
    num_heads: int = 32

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """See `Classifier`; the pooling knows places, so it is given the last map."""
        tokens, found = self.encoder.encode(images, train=train)
        pool = MeanQueryPool(self.features, self.num_heads, self.encoder.dtype, name="pool")
        features = pool(found[self.encoder.stride]).astype(jnp.float32)
        outputs = {"tokens": tokens, "features": features}
        outputs |= logits(features, self.num_classes, bias=self.head_bias_init)
        return outputs | ({"maps": found} if maps else {})

    @classmethod
    def from_variant(
        cls,
        variant: str = "RN50",
        *,
        num_classes: Natural,
        depths: Sequence[Count] | None = None,
        width: Count | None = None,
        features: Count | None = None,
        num_heads: Count | None = None,
        head_bias_init: float = 0.0,
        posemb_resize: PosembResize = "bicubic",
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """A network of a published size, from values that JSON can hold.

        Args:
            variant: see `VARIANTS`.
            num_classes: see `ClipResNet`, like `head_bias_init`.
            depths: replaces the variant's, like `width` and `features`, for sizes of one's own.
            num_heads: of the pooling; None for heads of 64 channels.
            posemb_resize: how the pooling's positions are to be interpolated to another grid, see
                `vit_jax.models.vit.ViT.from_variant`.
            dtype: compute dtype by name; parameters and statistics are always float32.

        Raises:
            UserError: for an unknown variant or value.
        """
        check_choice("posemb_resize", posemb_resize, RESIZES)
        if variant not in VARIANTS:
            raise UserError(f"There is no ResNet of CLIP named {variant!r}", nearest(variant, VARIANTS))
        own = {"depths": depths and tuple(depths), "width": width, "features": features}
        size = resized(VARIANTS[variant], **own)
        if size.width % 2 or not all(isinstance(depth, int) and depth > 0 for depth in size.depths):
            raise UserError(
                f"A width of {size.width} and {size.depths} units make no ResNet of CLIP",
                "Give an even width, and a number of units for each stage such as (2, 2, 2, 2)",
            )
        encoder = ClipResNetEncoder(stage_sizes=size.depths, width=size.width, dtype=compute_dtype(dtype), parent=None)
        num_heads = num_heads or max(encoder.channels // 64, 1)
        if encoder.channels % num_heads:
            raise UserError(
                f"{encoder.channels} channels do not divide into {num_heads} heads", "Change num_heads or the width"
            )
        return cls(
            encoder=encoder, num_classes=num_classes, head_bias_init=head_bias_init, features=size.features,
            num_heads=num_heads,
        )  # fmt: skip


KEYS = tuple(name for name in ClipResNet.from_variant.__annotations__ if name != "return")  # all that `build` takes

# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = ClipResNet.from_variant
