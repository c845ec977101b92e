"""EfficientViT for super-resolution: linear attention in full resolution (Cai et al., arXiv:2205.14756).

The paper gives figures of two widths, 0.75 and 1, and no more: its head is not described in full, and neither code nor
weights are public. This one is ours: a 3x3 convolution, EfficientViT blocks that keep the resolution, and a 3x3
convolution to scale^2 pixels for each, shuffled, and added to the bicubic enlargement. Width and depth are ours too.
"""

from typing import Annotated, Literal, NamedTuple, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models.efficientvit import EfficientViTBlock
from vit_jax.naming import nearest
from vit_jax.nn.conv import Conv, ConvImplementation
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.images import check_images
from vit_jax.nn.mbconv import MBConv, MobileStyle
from vit_jax.nn.pixel_shuffle import pixel_shuffle
from vit_jax.nn.resize import resize_maps
from vit_jax.nn.stack import block_name
from vit_jax.nn.trunk import Layers, Maps, Trunk, below
from vit_jax.ranges import Count, Positive, Range

_BICUBIC = 2  # pixels of the low resolution that the enlargement sees on each side


class Size(NamedTuple):
    """Channels, blocks, and channels of a head of the attention."""

    width: int
    depth: int
    head_width: int


VARIANTS = {"w1": Size(64, 6, 16), "w0.75": Size(48, 6, 16)}


class LocalBlock(nn.Module):
    """What is left of an EfficientViT block without its attention: an MBConv, added to what it gets."""

    expand_ratio: float
    style: MobileStyle

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b h w c"]:
        return x + self._mbconv(x.shape[-1], name="mbconv")(x, train)

    def flops(self, channels: int, size: tuple[int, int]) -> float:
        """Of one map of so many channels and [h, w] places."""
        return self._mbconv(channels, parent=None).flops(channels, size)

    def _mbconv(self, channels: int, **owner: str | None) -> MBConv:
        return MBConv(channels, 1, self.expand_ratio, True, True, self.style, **owner)


class FullResolutionEncoder(Trunk):
    """A 3x3 convolution and blocks, none of which makes the map smaller: the trunk `params["encoder"]`.

    Parameters: `stem`, `block_00`, `block_01`, ...; statistics of the norms in the collection "batch_stats".

    Attributes:
        width: channels.
        depth: blocks.
        head_width: see `vit_jax.nn.linear_attention.MultiScaleLinearAttention`, like `scales` and `epsilon`; None for
            blocks without attention.
        expand_ratio: of the blocks' MBConvs.
        style: see `MobileStyle`.
    """

    width: int
    depth: int
    head_width: int | None
    expand_ratio: float = 4.0
    scales: tuple[int, ...] = (5,)
    epsilon: float = 1e-15
    style: MobileStyle = MobileStyle()

    @nn.compact
    def encode(self, images: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b t d"], Maps]:
        """See `Trunk`: one map, at a stride of 1."""
        check_images(images)
        x = Conv(
            self.width, 3, dtype=self.style.dtype, implementation=self.style.implementation, name="stem"
        )(images)  # fmt: skip
        for i in range(self.depth):
            x = self._block(name=block_name(i))(x, train)
        return x.reshape(x.shape[0], -1, x.shape[-1]), {1: x}

    @property
    def border(self) -> int:
        """Pixels around a place that its convolutions see; linear attention sees all."""
        attention = max(self.scales, default=1) // 2 if self.head_width else 0
        return 1 + self.depth * (attention + 1)

    def layers(self) -> Layers:
        """Stem, then block after block."""
        return (("stem",), *((block_name(i),) for i in range(self.depth)))

    def flops(self, image_size: tuple[int, int]) -> float:
        """Those of all convolutions and of attention."""
        stem = product_flops(image_size[0] * image_size[1], 9 * 3, self.width)
        return stem + self.depth * self._block(parent=None).flops(self.width, image_size)

    def _block(self, **owner: str | None) -> EfficientViTBlock | LocalBlock:
        if self.head_width is None:
            return LocalBlock(self.expand_ratio, self.style, **owner)
        return EfficientViTBlock(self.expand_ratio, self.head_width, self.scales, self.epsilon, self.style, **owner)


class EfficientViTSR(nn.Module):
    """Images of a resolution that is `scale` times as high.

    Parameters: `encoder`, and `head`, the last convolution, which starts at zero: an untrained network is bicubic.

    Attributes:
        encoder: the trunk.
        scale: pixels along a side for each of the image's.
    """

    encoder: FullResolutionEncoder
    scale: int

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """Enlarges normalised images.

        Returns:
            "restored" float32 [B, scale * h, scale * w, 3], normalised as the images are, and what it is made of:
            "bicubic" of the same shape, "tokens" [B, h * w, D] and their mean "features" [B, D]; with `maps` also
            "maps" {1: [B, h, w, D]}.
        """
        tokens, found = self.encoder.encode(images, train=train)
        style = self.encoder.style
        x = Conv(
            3 * self.scale**2, 3, dtype=style.dtype, kernel_init=nn.initializers.zeros,
            implementation=style.implementation, name="head",
        )(found[1])  # fmt: skip
        size = tuple(self.scale * side for side in images.shape[1:3])
        bicubic = resize_maps(images, size, "bicubic_antialias")
        outputs = {
            "restored": bicubic + pixel_shuffle(x, self.scale).astype(jnp.float32),
            "bicubic": bicubic,
            "tokens": tokens,
            "features": tokens.mean(axis=1, dtype=jnp.float32),
        }
        return outputs | ({"maps": found} if maps else {})

    @property
    def border(self) -> int:
        """Pixels of the image around a place that convolutions see of it."""
        return max(self.encoder.border + 1, _BICUBIC)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        return below("encoder", self.encoder.layers())

    def flops(self, image_size: tuple[int, int]) -> float:
        """Those of the trunk and of the head."""
        head = product_flops(image_size[0] * image_size[1], 9 * self.encoder.width, 3 * self.scale**2)
        return self.encoder.flops(image_size) + head

    @classmethod
    def from_variant(
        cls,
        variant: str = "w1",
        *,
        scale: Annotated[int, Range(2, 8)] = 2,
        width: Count | None = None,
        depth: Count | None = None,
        head_width: Count | None = None,
        attention: bool = True,
        expand_ratio: Positive = 4.0,
        attention_epsilon: Positive = 1e-15,
        zero_init: bool = True,
        conv_implementation: ConvImplementation = "auto",
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """A network of one of our sizes, from values that JSON can hold.

        Args:
            variant: "w1" or "w0.75", see `VARIANTS`.
            scale: see `EfficientViTSR`.
            width: replaces the variant's, like `depth` and `head_width`, for sizes of one's own.
            attention: False leaves it out of all blocks: the control that says what it is worth.
            expand_ratio: see `FullResolutionEncoder`.
            attention_epsilon: see `vit_jax.nn.linear_attention.linear_attention`.
            zero_init: see `MobileStyle`.
            conv_implementation: see `vit_jax.nn.conv.Conv`.
            dtype: compute dtype by name; parameters, statistics and images are always float32.

        Raises:
            UserError: for an unknown variant.
        """
        if variant not in VARIANTS:
            raise UserError(f"There is no size of super-resolution named {variant!r}", nearest(variant, VARIANTS))
        size = VARIANTS[variant]
        encoder = FullResolutionEncoder(
            width=width or size.width,
            depth=depth or size.depth,
            head_width=(head_width or size.head_width) if attention else None,
            expand_ratio=expand_ratio,
            epsilon=attention_epsilon,
            style=MobileStyle(
                zero_init=zero_init, dtype=compute_dtype(dtype), implementation=conv_implementation
            ),
            # Unowned, so that the model adopts it as `encoder` even when it is made inside another module's setup.
            parent=None,
        )  # fmt: skip
        return cls(encoder=encoder, scale=scale)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = EfficientViTSR.from_variant
