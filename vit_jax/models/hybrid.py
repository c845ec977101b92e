"""Hybrids: a ViT on the feature map of a ResNet (ViT, section 3.1; "How to train your ViT?", arXiv:2106.10270)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.errors import UserError
from vit_jax.models.bit import BiTEncoder
from vit_jax.models.vit import KEYS as VIT_KEYS
from vit_jax.models.vit import ViT
from vit_jax.models.vit import build as build_vit
from vit_jax.naming import construct, nearest
from vit_jax.nn.bottleneck import ConvStyle
from vit_jax.nn.conv import EpsilonIn, Padding, PoolPadding
from vit_jax.ranges import Count, NonNegative, Positive


@dataclasses.dataclass(frozen=True)
class Stem:
    """The ResNet of a hybrid: the units of its stages, and the side of a patch in positions of its map."""

    stage_sizes: tuple[int, ...]
    patch: int = 1


# By the name of the ResNet and the number of pixels that it is named after. R50 at 16 has the units of the fourth stage
# in its third. R at 16 is a root alone, whose map is a quarter of the image, so that its tokens are 32 pixels apart
# whatever the name says: 50 of them, with the class token, at 224 pixels.
STEMS = {
    ("R", 16): Stem((), patch=8),
    ("R26", 32): Stem((2, 2, 2, 2)),
    ("R50", 16): Stem((3, 4, 9)),
    ("R50", 32): Stem((3, 4, 6, 3)),
}
PUBLISHED = ("R+Ti/16", "R26+S/32", "R26+B/32", "R50+B/16", "R50+L/32")


def parse_variant(variant: str) -> tuple[Stem, str]:
    """The stem that a name such as "R50+B/16" stands for, and the variant of the ViT on it ("B/1").

    Raises:
        UserError: for a name that is not RESNET+SIZE/PIXELS with a known stem; it names the nearest right one.
    """
    resnet, _, rest = str(variant).partition("+")
    size, _, pixels = rest.partition("/")
    stem = STEMS.get((resnet.upper(), int(pixels))) if pixels.isascii() and pixels.isdigit() else None
    if stem is None or not size:
        raise UserError(f"There is no hybrid '{variant}'", nearest(variant, PUBLISHED))
    return stem, f"{size}/{stem.patch}"


def build(
    variant: str = "R50+B/16",
    *,
    stage_sizes: Sequence[Count] | None = None,
    stem_width: Count = 64,
    padding: Padding = "same",
    stem_pool_padding: PoolPadding = "lowest",
    weight_epsilon: NonNegative = 1e-5,
    weight_epsilon_in: EpsilonIn = "deviation",
    num_groups: Count = 32,
    group_norm_epsilon: Positive = 1e-6,
    **vit: Any,
) -> ViT:
    """A hybrid of a published size, from values that JSON can hold; the defaults are those of the papers' checkpoints.

    It is a `ViT` whose encoder has a `stem`, with post-activation bottlenecks; parameters `encoder/stem`.

    Args:
        variant: ResNet, size of the ViT, and nominal pixels between tokens, e.g. "R50+B/16", see `STEMS`.
        stage_sizes: of the ResNet, replaces the variant's, for sizes of one's own.
        stem_width: channels of the root; the map of n > 0 stages has `stem_width * 2**(n + 1)`.
        padding: see `vit_jax.nn.bottleneck.ConvStyle`, like the epsilons and `num_groups`. timm has a
            `weight_epsilon` of 1e-8 in the variance and a `group_norm_epsilon` of 1e-5.
        stem_pool_padding: see `vit_jax.models.bit.BiTEncoder`.
        vit: all arguments of `vit_jax.models.vit.build` but `variant`: `num_classes`, `posemb`, `dropout_rate`, ...

    Raises:
        UserError: for an unknown variant, value or argument.
    """
    stem, vit_variant = parse_variant(variant)
    model = construct(build_vit, vit, "config.model", siblings=_OWN, keywords=VIT_KEYS, variant=vit_variant)
    style = ConvStyle(
        padding=padding,
        weight_epsilon=weight_epsilon,
        weight_epsilon_in=weight_epsilon_in,
        num_groups=num_groups,
        group_norm_epsilon=group_norm_epsilon,
        dtype=model.encoder.execution.dtype,
    )
    sizes = stem.stage_sizes if stage_sizes is None else tuple(stage_sizes)
    # Both unowned, so that the encoder adopts the stem and ViT the encoder, under their names.
    resnet = BiTEncoder(sizes, stem_width, False, stem_pool_padding, style, parent=None)
    return model.clone(encoder=model.encoder.clone(stem=resnet, parent=None))


_OWN = tuple(name for name in build.__annotations__ if name not in ("variant", "vit", "return"))
KEYS = (*_OWN, *VIT_KEYS)  # all that `build` takes


def vit_arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `vit_jax.models.vit.build` in those of a hybrid, with the `variant` of the ViT on the stem."""
    _, variant = parse_variant(kwargs.get("variant", "R50+B/16"))
    return {"variant": variant} | {k: v for k, v in kwargs.items() if k not in _OWN and k != "variant"}
