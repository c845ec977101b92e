"""Swin2SR: blocks of Swin v2 in full resolution, for super-resolution (Conde et al., arXiv:2209.11345).

Every stage is blocks and two convolutions, beside a shortcut (SwinIR, arXiv:2108.10257). Sizes and details are those of
transformers' `Swin2SRForImageSuperResolution`.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models.swin import SwinStage, stage_name
from vit_jax.models.swin_v2 import ContinuousBlock, ContinuousStyle
from vit_jax.naming import check_keys, nearest
from vit_jax.nn.conv import Conv
from vit_jax.nn.flops import product_flops
from vit_jax.nn.images import check_images
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.pixel_shuffle import pixel_shuffle
from vit_jax.nn.resize import resize_maps
from vit_jax.nn.stack import block_name, drop_path_rates
from vit_jax.nn.style import EXECUTION_KEYS, Execution, execution_of
from vit_jax.nn.trunk import Layers, Maps, Trunk, below
from vit_jax.ranges import Count, Decay, Positive

_FEATURES = 64  # of the upsampler, in transformers and the authors' code
_BIASES = ("query", "value", "out", "fc1", "fc2")
_PATCH_EPSILON = 1e-5  # of the norm behind the first 1x1 convolution, whatever the other norms have


class Size(NamedTuple):
    """Channels, blocks and heads of each stage, and how the image becomes larger at the end."""

    width: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    upsampler: str


VARIANTS = {
    "classical": Size(180, (6,) * 6, (6,) * 6, "pixelshuffle"),
    "lightweight": Size(60, (6,) * 4, (6,) * 4, "pixelshuffledirect"),
}


class ResidualStage(SwinStage):
    """Blocks, a 3x3 and a 1x1 convolution, and a shortcut around all of it (SwinIR's RSTB).

    Parameters: `block_00`, `block_01`, ..., `conv`, `embedding`.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        batch, *grid, width = x.shape
        y = self.run(x.reshape(batch, -1, width), tuple(grid), train=train).reshape(x.shape)
        for name, side in (("conv", 3), ("embedding", 1)):
            y = Conv(width, side, dtype=self.execution.dtype, name=name)(y)
        return x + y


class Swin2SREncoder(Trunk):
    """Convolutions and stages that keep the resolution: the trunk `params["encoder"]`.

    Parameters: `stem`, `embedding`, `norm_embedding`, `stage_0`, `stage_1`, ..., `norm`, `conv`.

    Attributes:
        width: channels.
        depths: blocks of each stage.
        styles: of the plain blocks of each stage.
        execution: how the blocks are run, stage by stage.
        drop_path_rate: stochastic depth of the last block of all (rng collection "drop_path"), growing linearly from 0.
    """

    width: int
    depths: tuple[int, ...]
    styles: tuple[ContinuousStyle, ...]
    execution: Execution = Execution()
    drop_path_rate: float = 0.0

    @property
    def window_size(self) -> int:
        """Side of the windows."""
        return self.styles[0].window_size

    @property
    def stride(self) -> int:
        """Of the only map."""
        return 1

    @nn.compact
    def encode(self, images: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b t d"], Maps]:
        """See `Trunk`: one map, at a stride of 1. Images are mirrored at the right and below up to whole windows, of
        which the map is."""
        check_images(images)
        dtype = self.execution.dtype
        more = [-side % self.window_size for side in images.shape[1:3]]
        images = jnp.pad(images, [(0, 0), (0, more[0]), (0, more[1]), (0, 0)], mode="reflect")
        first = Conv(self.width, 3, dtype=dtype, name="stem")(images)
        x = Conv(self.width, 1, dtype=dtype, name="embedding")(first)
        x = LayerNorm(_PATCH_EPSILON, dtype, name="norm_embedding")(x)
        rates = drop_path_rates(self.drop_path_rate, sum(self.depths))
        for i, (depth, style) in enumerate(zip(self.depths, self.styles, strict=True)):
            own, rates = rates[:depth], rates[depth:]
            stage = ResidualStage(style, depth, own, False, self.execution, ContinuousBlock, name=stage_name(i))
            x = stage(x, train=train)
        x = LayerNorm(self.styles[0].norm_epsilon, dtype, name="norm")(x)
        x = Conv(self.width, 3, dtype=dtype, name="conv")(x) + first
        return x.reshape(x.shape[0], -1, x.shape[-1]), {1: x}

    def layers(self) -> Layers:
        """All that the first block reads, then block after block; a stage's convolutions belong to its last one."""
        layers: list[tuple[str, ...]] = [("stem", "embedding", "norm_embedding")]
        for i, depth in enumerate(self.depths):
            layers += [(f"{stage_name(i)}/{block_name(j)}",) for j in range(depth)]
            layers[-1] += tuple(f"{stage_name(i)}/{name}" for name in ("conv", "embedding"))
        return tuple(layers)

    def flops(self, image_size: tuple[int, int]) -> float:
        """Those of convolutions, attention and MLPs, with what windows are filled up with."""
        sides = tuple(-(-side // self.window_size) * self.window_size for side in image_size)
        places, width = sides[0] * sides[1], self.width
        convolutions = product_flops(places, 27, width) + (1 + len(self.depths)) * product_flops(
            places, 10 * width, width
        )
        total = convolutions
        for depth, style in zip(self.depths, self.styles, strict=True):
            windows = style.windows(sides)
            within = product_flops(windows.tokens, width, 4 * width) + 4 * windows.tokens**2 * width
            block = windows.count * within + 2 * product_flops(places, width, style.mlp_dim)
            total += depth * (block + style.bias_flops(windows))
        return total


class Upsampler(nn.Module):
    """From a map to an image of `scale` times its resolution.

    Parameters: of "pixelshuffle" `before`, `up_0` (for a scale of 4 `up_1` too) and `last`; of "pixelshuffledirect"
    `last` alone.

    Attributes:
        scale: 2, 3 or 4.
        kind: "pixelshuffle", or "pixelshuffledirect" of the small network.
        dtype: of the computation.
    """

    scale: int
    kind: str
    dtype: Any = jnp.float32

    @property
    def steps(self) -> tuple[int, ...]:
        """By how much each of the steps enlarges."""
        return (2, 2) if self.scale == 4 and self.kind == "pixelshuffle" else (self.scale,)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b sh sw 3"]:
        if self.kind == "pixelshuffledirect":
            return pixel_shuffle(self._conv(3 * self.scale**2, "last")(x), self.scale)
        x = nn.leaky_relu(self._conv(_FEATURES, "before")(x), 0.01)
        for i, step in enumerate(self.steps):
            x = pixel_shuffle(self._conv(_FEATURES * step**2, f"up_{i}")(x), step)
        return self._conv(3, "last")(x)

    def flops(self, width: int, places: int) -> float:
        """Of a map of so many channels and places."""
        if self.kind == "pixelshuffledirect":
            return product_flops(places, 9 * width, 3 * self.scale**2)
        total = product_flops(places, 9 * width, _FEATURES)
        for step in self.steps:
            total += product_flops(places, 9 * _FEATURES, _FEATURES * step**2)
            places *= step**2
        return total + product_flops(places, 9 * _FEATURES, 3)

    def _conv(self, width: int, name: str) -> Conv:
        return Conv(width, 3, dtype=self.dtype, name=name)


class Swin2SR(nn.Module):
    """Images of a resolution that is `scale` times as high.

    Parameters: `encoder`, and `head`, see `Upsampler`.

    Attributes:
        encoder: the trunk.
        scale: pixels along a side for each of the image's.
        upsampler: see `Upsampler`.
    """

    encoder: Swin2SREncoder
    scale: int
    upsampler: str = "pixelshuffle"

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """Enlarges normalised images; see `vit_jax.models.efficientvit_sr.EfficientViTSR` for what it returns."""
        tokens, found = self.encoder.encode(images, train=train)
        size = tuple(self.scale * side for side in images.shape[1:3])
        restored = self._head(name="head")(found[1])[:, : size[0], : size[1]]
        outputs = {
            "restored": restored.astype(jnp.float32),
            "bicubic": resize_maps(images, size, "bicubic_antialias"),
            "tokens": tokens,
            "features": tokens.mean(axis=1, dtype=jnp.float32),
        }
        return outputs | ({"maps": found} if maps else {})

    @property
    def border(self) -> int:
        """Pixels around a place after which a tile may end: two windows. Blocks upon blocks see farther, but little."""
        return 2 * self.encoder.window_size

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        return below("encoder", self.encoder.layers())

    def flops(self, image_size: tuple[int, int]) -> float:
        """Those of the trunk and of the head."""
        places = image_size[0] * image_size[1]
        return self.encoder.flops(image_size) + self._head(parent=None).flops(self.encoder.width, places)

    def _head(self, **owner: str | None) -> Upsampler:
        return Upsampler(self.scale, self.upsampler, self.encoder.execution.dtype, **owner)

    @classmethod
    def from_variant(
        cls,
        variant: str = "classical",
        *,
        scale: Literal[2, 3, 4] = 2,
        width: Count | None = None,
        depths: Sequence[Count] | None = None,
        num_heads: Sequence[Count] | None = None,
        mlp_ratio: Positive = 2.0,
        upsampler: Literal["pixelshuffle", "pixelshuffledirect"] | None = None,
        drop_path_rate: Decay = 0.0,
        dtype: Literal["float32", "bfloat16"] = "float32",
        **block: Any,
    ) -> Self:
        """A Swin2SR of a published size, from values that JSON can hold.

        Args:
            variant: "classical" or "lightweight", see `VARIANTS`.
            scale: see `Swin2SR`.
            width: replaces the variant's, like `depths`, `num_heads` and `upsampler`, for sizes of one's own.
            mlp_ratio: hidden width of an MLP over the width.
            drop_path_rate: see `Swin2SREncoder`.
            dtype: compute dtype by name; parameters and images are always float32.
            block: other arguments of `Execution` and `ContinuousStyle`; by default the `window_size` is 8, the
                `norm_epsilon` 1e-5 and the `activation` "gelu_exact".

        Raises:
            UserError: for an unknown variant, value or argument.
        """
        check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
        if variant not in VARIANTS:
            raise UserError(f"There is no Swin2SR named {variant!r}", nearest(variant, VARIANTS))
        size = VARIANTS[variant]
        width, depths = width or size.width, tuple(depths or size.depths)
        num_heads = tuple(num_heads or size.num_heads)
        if len(depths) != len(num_heads):
            raise UserError(
                f"There are {len(depths)} depths for {len(num_heads)} stages of heads", "Give as many of both"
            )
        if any(width % heads for heads in num_heads):
            raise UserError(f"A width of {width} does not divide into {max(num_heads)} heads", "Change one of the two")
        given = {"norm": "residual_post", "qk_norm": "l2", "biases": _BIASES, "norm_epsilon": 1e-5,
                 "activation": "gelu_exact", "window_size": 8}  # fmt: skip
        given |= {k: v for k, v in block.items() if k not in EXECUTION_KEYS}
        styles = tuple(ContinuousStyle(num_heads=heads, mlp_dim=int(mlp_ratio * width), **given) for heads in num_heads)
        encoder = Swin2SREncoder(
            width=width, depths=depths, styles=styles, execution=execution_of(block, dtype),
            drop_path_rate=drop_path_rate, parent=None,
        )  # fmt: skip
        return cls(encoder=encoder, scale=scale, upsampler=upsampler or size.upsampler)


_STYLE_KEYS = ("norm_epsilon", "activation", "window_size", "dropout_rate", "attention_dropout_rate")
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)
_NAMED_KEYS = tuple(name for name in Swin2SR.from_variant.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes

# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = Swin2SR.from_variant
