"""BiT, the ResNet-v2 with group norm and weight standardisation ("Big Transfer", arXiv:1912.11370)."""

import re
from collections.abc import Sequence
from typing import Literal, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.bottleneck import ConvStyle, PostActivationBottleneck, PreActivationBottleneck
from vit_jax.nn.conv import EpsilonIn, Padding, PoolPadding, max_pool
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.images import check_images
from vit_jax.ranges import Count, Natural, NonNegative, Positive

# Units in each stage, by the number of layers that gives the network its name. 26: timm's.
STAGE_SIZES = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
# BiT, section 3.3 and figure 4.
PUBLISHED = ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4")


def parse_variant(variant: str) -> tuple[tuple[int, ...], int]:
    """The stages' sizes and the width of the stem that a name such as "R50x1" stands for.

    Raises:
        UserError: for a name that is not RxxxxN with a known number of layers; it names the nearest right one.
    """
    match = re.fullmatch(r"[rR]([0-9]{1,4})x([1-9][0-9]?)", str(variant))
    if not match or int(match[1]) not in STAGE_SIZES:
        raise UserError(f"There is no BiT '{variant}'", nearest(variant, PUBLISHED))
    return STAGE_SIZES[int(match[1])], 64 * int(match[2])


def unit_name(stage: int, unit: int) -> str:
    """The name of a unit's parameters; both count from 0, the names from 1 as in the papers."""
    return f"stage{stage + 1}_unit{unit + 1:02d}"


class ResNetEncoder(nn.Module):
    """A 7x7 convolution, a max-pool, and stages of bottlenecks: the trunk `params["encoder"]`, or the stem of a hybrid.

    Parameters, all float32 whatever the compute dtype: `root_conv`; `stage1_unit01`, ...; with pre-activation the final
    `norm`, otherwise `root_norm`.

    Attributes:
        stage_sizes: units in each stage; each stage but the first halves the map. () is the root alone.
        width: channels of the root; stage i has bottlenecks of width * 2**i and gives four times as many.
        preactivation: BiT's units and a final norm, or units with the norms after (hybrids, ResNet-v1).
        stem_pool_padding: what the max-pool sees around the map, see `vit_jax.nn.conv.max_pool`.
        style: of all convolutions and norms.
    """

    stage_sizes: Sequence[int]
    width: int
    preactivation: bool = True
    stem_pool_padding: PoolPadding = "zeros"
    style: ConvStyle = ConvStyle()

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b oh ow out"]:
        """The last feature map of normalised images, after its norm and ReLU."""
        check_images(images)
        style = self.style
        x = style.conv(self.width, 7, 2, name="root_conv")(images)
        if not self.preactivation:
            x = nn.relu(style.norm(name="root_norm")(x))
        x = max_pool(x, style.padding, self.stem_pool_padding)
        bottleneck = PreActivationBottleneck if self.preactivation else PostActivationBottleneck
        for stage, size in enumerate(self.stage_sizes):
            for unit in range(size):
                stride = 2 if stage > 0 and unit == 0 else 1
                x = bottleneck(self.width * 2**stage, stride, style, name=unit_name(stage, unit))(x)
        return nn.relu(style.norm(name="norm")(x)) if self.preactivation else x


class BiT(nn.Module):
    """An image classifier: a ResNet, its map's mean, and a linear head that starts at zero.

    Parameters: `encoder`, and `head` with classes. The mean is over all positions, so any image size will do.

    Attributes:
        encoder: gives a map [B, h, w, F], see `ResNetEncoder`.
        num_classes: outputs of the head; 0 for no head.
        head_bias_init: initial bias of the head, e.g. -log(num_classes) with a sigmoid loss.
    """

    encoder: nn.Module
    num_classes: int
    head_bias_init: float = 0.0

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> dict[str, Array]:
        """Classifies normalised images.

        Returns:
            "map" [B, h/32, w/32, F] after the last norm, in the encoder's dtype; "features" [B, F] float32, what the
            head sees; "logits" [B, num_classes] float32, absent when there is no head.
        """
        x = self.encoder(images, train=train)
        outputs = {"map": x, "features": x.mean(axis=(1, 2), dtype=jnp.float32)}
        if self.num_classes:
            bias = nn.initializers.constant(self.head_bias_init)
            head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, bias_init=bias, name="head")
            outputs["logits"] = head(outputs["features"])
        return outputs

    @classmethod
    def from_variant(
        cls,
        variant: str = "R50x1",
        *,
        num_classes: Natural,
        stage_sizes: Sequence[Count] | None = None,
        width: Count | None = None,
        head_bias_init: float = 0.0,
        preactivation: bool = True,
        padding: Padding = "fixed",
        stem_pool_padding: PoolPadding = "zeros",
        weight_epsilon: NonNegative = 1e-10,
        weight_epsilon_in: EpsilonIn = "variance",
        num_groups: Count = 32,
        group_norm_epsilon: Positive = 1e-5,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """A BiT of a published size, from values that JSON can hold; the defaults are those of the paper's checkpoints.

        Args:
            variant: layers and width, e.g. "R50x1" or "R152x4", see `PUBLISHED`.
            num_classes: see `BiT`, like `head_bias_init`.
            stage_sizes: replaces the variant's, like `width`, for sizes of one's own.
            preactivation: see `ResNetEncoder`, like `stem_pool_padding`. big_vision's ResNet-v1 with group norm has
                False, the padding "same" with the pool's padding "lowest", a `weight_epsilon` of 1e-5 in the
                deviation, and a `group_norm_epsilon` of 1e-6.
            padding: see `ConvStyle`, like all that follow. timm and transformers have a `weight_epsilon` of 1e-8.
            dtype: compute dtype by name; parameters are float32 in any case.

        Raises:
            UserError: for an unknown variant or value.
        """
        sizes, root_width = parse_variant(variant)
        style = ConvStyle(
            padding=padding,
            weight_epsilon=weight_epsilon,
            weight_epsilon_in=weight_epsilon_in,
            num_groups=num_groups,
            group_norm_epsilon=group_norm_epsilon,
            dtype=compute_dtype(dtype),
        )
        encoder = ResNetEncoder(
            stage_sizes=sizes if stage_sizes is None else tuple(stage_sizes),
            width=root_width if width is None else width,
            preactivation=preactivation,
            stem_pool_padding=stem_pool_padding,
            style=style,
            # Unowned, so that BiT adopts it as `encoder` even when it is made inside another module's setup.
            parent=None,
        )
        return cls(encoder=encoder, num_classes=num_classes, head_bias_init=head_bias_init)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = BiT.from_variant
