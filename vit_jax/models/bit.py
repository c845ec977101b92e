"""BiT, the ResNet-v2 with group norm and weight standardisation ("Big Transfer", arXiv:1912.11370)."""

import re
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.bottleneck import ConvStyle, PostActivationUnit, PreActivationBottleneck
from vit_jax.nn.conv import EpsilonIn, Padding, PoolPadding, max_pool
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.residual import ResidualTrunk
from vit_jax.nn.trunk import Classifier
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


class BiTEncoder(ResidualTrunk):
    """A 7x7 convolution, a max-pool, and stages of bottlenecks: the trunk `params["encoder"]`, or the stem of a hybrid.

    Parameters, all float32 whatever the compute dtype: `root_conv`; `stage1_unit01`, ...; with pre-activation the final
    `norm`, otherwise `root_norm`.

    Attributes:
        stage_sizes: see `ResidualTrunk`, like `width`.
        preactivation: BiT's units and a final norm, or units with the norms after (hybrids, ResNet-v1).
        stem_pool_padding: what the max-pool sees around the map, see `vit_jax.nn.conv.max_pool`.
        style: of all convolutions and norms.
    """

    ROOT: ClassVar[tuple[str, ...]] = ("root_conv", "root_norm")

    preactivation: bool = True
    stem_pool_padding: PoolPadding = "zeros"
    style: ConvStyle = ConvStyle()

    def root(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b oh ow out"]:
        x = self.style.conv(self.width, 7, 2, name="root_conv")(images)
        if not self.preactivation:
            x = nn.relu(self.style.norm(name="root_norm")(x))
        return max_pool(x, self.style.padding, self.stem_pool_padding)

    def unit(self, x: Float[Array, "b h w c"], width: int, stride: int, train: bool, name: str) -> Array:
        unit = PreActivationBottleneck if self.preactivation else PostActivationUnit
        return unit(width, stride, self.style, name=name)(x)

    def last(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return nn.relu(self.style.norm(name="norm")(x)) if self.preactivation else x


class BiT(Classifier):
    """An image classifier: a ResNet, its map's mean over all positions, so that any image size will do, and a head."""

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
            preactivation: see `BiTEncoder`, like `stem_pool_padding`. big_vision's ResNet-v1 with group norm has
                False, the padding "same" with the pool's padding "lowest", a `weight_epsilon` of 1e-5 in the
                deviation, and a `group_norm_epsilon` of 1e-6.
            padding: see `ConvStyle`, like all that follow. timm and transformers have a `weight_epsilon` of 1e-8.
            dtype: compute dtype by name; parameters are always float32.

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
        encoder = BiTEncoder(
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
