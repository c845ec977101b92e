"""EfficientViT: convolutions, and multi-scale linear attention where maps are small (Cai et al., arXiv:2205.14756).

B0 to B3 are the paper's; L0 to L3 and XL0, XL1 are the authors' later networks for accelerators and for SAM
(arXiv:2402.05008). Sizes as in their code.
"""

from collections.abc import Sequence
from typing import Literal, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models.efficientvit_variants import PUBLISHED, SERIES, VARIANTS, StageStyle
from vit_jax.naming import nearest
from vit_jax.nn.activation import ACTIVATIONS
from vit_jax.nn.block import drop_path, drops
from vit_jax.nn.conv import ConvImplementation, chosen_implementation
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.images import check_images
from vit_jax.nn.linear_attention import MultiScaleLinearAttention
from vit_jax.nn.mbconv import ConvBlock, ConvNorm, DSConv, FusedMBConv, MBConv, MobileStyle, ResBlock
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.stack import block_name
from vit_jax.nn.trunk import Classifier, Layers, Maps, Trunk, logits
from vit_jax.ranges import Count, Decay, Natural, Positive

_BLOCKS = {"ds": DSConv, "mb": MBConv, "fmb": FusedMBConv, "res": ResBlock}

__all__ = ["PUBLISHED", "EfficientViT", "EfficientViTBlock", "EfficientViTEncoder", "Stage", "build"]


class EfficientViTBlock(nn.Module):
    """Linear attention, then an MBConv instead of an MLP, each added to what it gets.

    Parameters: `attention`, `mbconv`.

    Attributes:
        expand_ratio: of the MBConv.
        head_width: see `MultiScaleLinearAttention`, like `scales` and `epsilon`.
        style: see `MobileStyle`.
    """

    expand_ratio: float
    head_width: int
    scales: tuple[int, ...] = (5,)
    epsilon: float = 1e-15
    style: MobileStyle = MobileStyle()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool = False, drop_path_rates: tuple[float, float] = (0.0, 0.0)
    ) -> Float[Array, "b h w c"]:
        attention, mbconv = self._parts(x.shape[-1], "attention", "mbconv")
        x = _added(self, x, attention(x, train), drop_path_rates[0], train)
        return _added(self, x, mbconv(x, train), drop_path_rates[1], train)

    def flops(self, channels: int, size: tuple[int, int]) -> float:
        """Of one map of so many channels and [h, w] places."""
        return sum(part.flops(channels, size) for part in self._parts(channels, None, None, parent=None))

    def _parts(self, channels: int, *names: str | None, **owner: None) -> tuple[MultiScaleLinearAttention, MBConv]:
        first, second = names
        return (
            MultiScaleLinearAttention(
                self.head_width, self.scales, self.epsilon, True, self.style, name=first, **owner
            ),
            MBConv(channels, 1, self.expand_ratio, True, True, self.style, name=second, **owner),
        )


def _added(module: nn.Module, x: Array, branch: Array, rate: float, train: bool) -> Array:
    """The sum with a residual branch, which is dropped at this rate."""
    return x + (drop_path(branch, rate, module.make_rng("drop_path")) if drops(rate, train) else branch)


class Stage(nn.Module):
    """A stem, or a block that halves the map, and residual blocks.

    Parameters: `stem` in the first stage, `downsample` in the others; `block_00`, `block_01`, ...

    Attributes:
        stage: see `StageStyle`.
        width: its channels.
        blocks: after the first.
        is_stem: its first block is a convolution of the image.
        head_width: see `MultiScaleLinearAttention`, like `epsilon`.
        drop_path_rates: of each residual branch; an attention block has two.
        style: see `MobileStyle`.
    """

    stage: StageStyle
    width: int
    blocks: int
    is_stem: bool
    head_width: int
    epsilon: float
    drop_path_rates: tuple[float, ...]
    style: MobileStyle

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b oh ow width"]:
        if self.is_stem:
            x = ConvNorm(self.width, 3, 2, style=self.style, name="stem")(x, train)
        else:
            x = self.first(name="downsample")(x, train)
        rates = iter(self.drop_path_rates)
        for i in range(self.blocks):
            block = self.block(name=block_name(i))
            if self.stage.block == "att":
                x = block(x, train, (next(rates), next(rates)))
            else:
                x = _added(self, x, block(x, train), next(rates), train)
        return x

    def first(self, **named: str | None) -> ConvBlock:
        """The block that halves the map."""
        stage = self.stage
        return _BLOCKS[stage.first](
            self.width, 2, stage.first_expand_ratio, stage.fewer_norm, style=self.style, **named
        )

    def block(self, **named: str | None) -> ConvBlock | EfficientViTBlock:
        """One of the others."""
        stage = self.stage
        if stage.block == "att":
            return EfficientViTBlock(
                stage.expand_ratio, self.head_width, stage.scales, self.epsilon, self.style, **named
            )
        return _BLOCKS[stage.block](self.width, 1, stage.expand_ratio, stage.fewer_norm, True, self.style, **named)

    def flops(self, channels: int, size: tuple[int, int]) -> float:
        """Of a map of so many channels and twice as many rows and columns as `size`, up to one."""
        half = tuple(-(-side // 2) for side in size)
        first = product_flops(half[0] * half[1], 9 * channels, self.width) if self.is_stem else (
            self.first(parent=None).flops(channels, size)
        )  # fmt: skip
        return first + self.blocks * (self.block(parent=None).flops(self.width, half) if self.blocks else 0.0)


class EfficientViTEncoder(Trunk):
    """Stem and stages, each of which halves the map: the trunk `params["encoder"]`.

    Parameters: `stage_0` (the stem), `stage_1`, ...; statistics of the norms in the collection "batch_stats".

    Attributes:
        stages: see `StageStyle`.
        widths: channels of each stage.
        depths: blocks of each stage, see `StageStyle.counts_first`.
        head_width: see `MultiScaleLinearAttention`.
        attention_epsilon: see `vit_jax.nn.linear_attention.linear_attention`.
        drop_path_rate: stochastic depth of the last residual branch (rng collection "drop_path"); the rates of the
            others grow evenly up to it, as in the authors' code.
        drop_path_skip: so many branches at the beginning are never dropped, and not counted.
        style: see `MobileStyle`.
    """

    stages: tuple[StageStyle, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    head_width: int
    attention_epsilon: float = 1e-15
    drop_path_rate: float = 0.0
    drop_path_skip: int = 0
    style: MobileStyle = MobileStyle()

    @nn.compact
    def encode(self, images: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b t d"], Maps]:
        """See `Trunk`: the maps after each stage but the stem, at strides of 4 and more, and the places of the last one
        as tokens.

        Raises:
            UserError: for an image that is smaller than the stride of the last map.
        """
        check_images(images)
        height, width = images.shape[1:3]
        if min(height, width) < self.stride:
            raise UserError(
                f"An image of {height}x{width} pixels is smaller than the last map's stride of {self.stride}",
                f"Give images of at least {self.stride}x{self.stride} pixels",
            )
        x, maps = images.astype(self.style.dtype), {}
        for i, stage in enumerate(self._stages()):
            x = stage(x, train)
            if i:
                maps[2 ** (i + 1)] = x
        return x.reshape(x.shape[0], -1, x.shape[-1]), maps

    @property
    def stride(self) -> int:
        """Of the last map."""
        return 2 ** len(self.stages)

    def layers(self) -> Layers:
        """Stem, then block after block."""
        named = []
        for i, blocks in enumerate(self._blocks()):
            first = "downsample" if i else "stem"
            named += [(f"stage_{i}/{name}",) for name in (first, *map(block_name, range(blocks)))]
        return tuple(named)

    def flops(self, image_size: tuple[int, int]) -> float:
        """Those of all convolutions and of attention."""
        total, channels, size = 0.0, 3, tuple(image_size)
        for stage in self._stages(parent=None):
            total += stage.flops(channels, size)
            channels, size = stage.width, tuple(-(-side // 2) for side in size)
        return total

    def _blocks(self) -> list[int]:
        """Of each stage, after its first."""
        return [depth - stage.counts_first for depth, stage in zip(self.depths, self.stages, strict=True)]

    def _stages(self, **owner: None) -> list[Stage]:
        """The modules, with names where they have an owner."""
        blocks = self._blocks()
        branches = [n * (2 if stage.block == "att" else 1) for n, stage in zip(blocks, self.stages, strict=True)]
        dropped = max(sum(branches) - self.drop_path_skip, 1)
        rates = [self.drop_path_rate * max(i + 1 - self.drop_path_skip, 0) / dropped for i in range(sum(branches))]
        modules = []
        for i, stage in enumerate(self.stages):
            before = sum(branches[:i])
            name = {} if owner else {"name": f"stage_{i}"}
            modules.append(
                Stage(
                    stage, self.widths[i], blocks[i], i == 0, self.head_width, self.attention_epsilon,
                    tuple(rates[before : before + branches[i]]), self.style, **name, **owner,
                )
            )  # fmt: skip
        return modules


class EfficientViT(Classifier):
    """An image classifier: the encoder; the mean over all places are its features.

    With `head_widths` the head is not of the features but of the last map: a 1x1 convolution to the first width, the
    mean over all places, a dense layer to the second with a layer norm, and the linear head.
    Parameters: `encoder`; with classes `head`, and with `head_widths` too `head_conv`, `pre_logits`, `head_norm`.

    Attributes:
        head_widths: () for a linear head.
    """

    head_widths: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """See `Classifier`."""
        tokens, found = self.encoder.encode(images, train=train)
        outputs = {"tokens": tokens, "features": tokens.mean(axis=1, dtype=jnp.float32)}
        if self.num_classes:
            x = outputs["features"]
            if self.head_widths:
                x = self._hidden(found[max(found)], train)
            outputs |= logits(x, self.num_classes, bias=self.head_bias_init)
        return outputs | ({"maps": found} if maps else {})

    def _hidden(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b hidden"]:
        """What the linear head sees, float32."""
        style, (wide, hidden) = self.encoder.style, self.head_widths
        x = ConvNorm(wide, 1, style=style, name="head_conv")(x, train).mean(axis=(1, 2), dtype=jnp.float32)
        x = nn.Dense(hidden, use_bias=False, kernel_init=nn.initializers.truncated_normal(0.02), name="pre_logits")(x)
        return ACTIVATIONS[style.activation](LayerNorm(style.norm_epsilon, name="head_norm")(x))

    def flops(self, image_size: tuple[int, int]) -> float:
        """Those of the trunk and of the head."""
        total = self.encoder.flops(image_size)
        if not self.num_classes or not self.head_widths:
            return total
        places = -(-image_size[0] // self.encoder.stride) * -(-image_size[1] // self.encoder.stride)
        wide, hidden = self.head_widths
        head = product_flops(1, wide, hidden) + product_flops(1, hidden, self.num_classes)
        return total + product_flops(places, self.encoder.widths[-1], wide) + head

    def implementations(self) -> dict[str, str]:
        """How it is run on the platform that is traced for."""
        return {"convolutions": chosen_implementation(self.encoder.style.implementation)}

    @classmethod
    def from_variant(
        cls,
        variant: str = "B1",
        *,
        num_classes: Natural,
        widths: Sequence[Count] | None = None,
        depths: Sequence[Natural] | None = None,
        head_width: Count | None = None,
        head_widths: Sequence[Count] | None = None,
        head_bias_init: float = 0.0,
        norm_epsilon: Positive | None = None,
        attention_epsilon: Positive = 1e-15,
        drop_path_rate: Decay = 0.0,
        drop_path_skip: Natural = 0,
        zero_init: bool = True,
        conv_implementation: ConvImplementation = "auto",
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """A network of a published size, from values that JSON can hold.

        Args:
            variant: "B0" to "B3", "L0" to "L3", "XL0" or "XL1", see `VARIANTS`.
            num_classes: see `EfficientViT`, like `head_bias_init`.
            widths: replaces the variant's, like `depths`, for sizes of one's own.
            head_width: features of a head of the attention, instead of the variant's.
            head_widths: see `EfficientViT`; () for a linear head, None for the variant's.
            norm_epsilon: see `MobileStyle`, like `zero_init`; the variant's by default: 1e-5 of B, 1e-7 of L, and 1e-6
                of those for SAM, in which L1 and L2 have it too.
            attention_epsilon: see `EfficientViTEncoder`, like `drop_path_rate` and `drop_path_skip`; timm's is 1e-5.
            conv_implementation: see `vit_jax.nn.conv.Conv`.
            dtype: compute dtype by name; parameters and statistics are always float32.

        Raises:
            UserError: for an unknown variant or value.
        """
        if str(variant).upper() not in VARIANTS:
            raise UserError(f"There is no EfficientViT named {variant!r}", nearest(variant, VARIANTS))
        size = VARIANTS[str(variant).upper()]
        series = SERIES[size.series]
        widths, depths = (
            tuple(of if own is None else own) for own, of in ((widths, size.widths), (depths, size.depths))
        )
        head_widths = size.head_widths if head_widths is None else tuple(head_widths)
        for what, values in (("widths", widths), ("depths", depths)):
            if len(values) != len(series.stages):
                raise UserError(
                    f"{what}={list(values)} is not one number for each of the {len(series.stages)} stages of {variant}",
                    f"Give one such as {list(getattr(size, what))}",
                )
        short = [i for i, stage in enumerate(series.stages) if depths[i] < stage.counts_first]
        if short:
            raise UserError(f"depths={list(depths)} leaves stage {short[0]} without a block", "Give it at least 1")
        if len(head_widths) not in (0, 2):
            raise UserError(f"head_widths={list(head_widths)} are not two numbers", "Give two, or none: []")
        encoder = EfficientViTEncoder(
            stages=series.stages,
            widths=widths,
            depths=depths,
            head_width=head_width or size.head_width,
            attention_epsilon=attention_epsilon,
            drop_path_rate=drop_path_rate,
            drop_path_skip=drop_path_skip,
            style=MobileStyle(
                series.activation, norm_epsilon or size.norm_epsilon, zero_init, compute_dtype(dtype),
                conv_implementation,
            ),
            parent=None,
        )  # fmt: skip
        return cls(encoder=encoder, num_classes=num_classes, head_bias_init=head_bias_init, head_widths=head_widths)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = EfficientViT.from_variant
