"""TAESD, a tiny autoencoder whose latents are those of a large one (Boer Bohan, github.com/madebyollin/taesd, MIT):
TAESD for Stable Diffusion, TAESD3 and TAEF1 for SD3 and FLUX.1, TAEF2 for FLUX.2.

It is distilled; its task is not here. The authors' form for Sana, which reduces by 32, is not read.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.conv import Conv, GroupNorm
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer, grid_of
from vit_jax.nn.images import check_images
from vit_jax.nn.unet_blocks import UNIFORM, doubled
from vit_jax.ranges import Count, Natural

_LARGEST = 3.0  # of latents as the decoder takes them
_POOLED = 4  # times the width, and groups of its norm


class Size(NamedTuple):
    """Channels of the latents, and whether the lowest level has the branch that looks at the whole map."""

    latent_width: int
    pooled: bool = False


VARIANTS = {"taesd": Size(4), "taef1": Size(16), "taef2": Size(32, True)}


class TinyBlock(nn.Module):
    """Three 3x3 convolutions with ReLU between them, added to what comes in, and ReLU.

    Parameters, float32: `conv1`, `conv2`, `conv3`; of a pooled one also `expand`, `norm` and `reduce`, 1x1 convolutions
    without biases around a norm and ReLU, whose result is added first.

    Attributes:
        pooled: whether there is that branch. Its norm's statistics are over the whole map.
        dtype: of the convolutions.
    """

    pooled: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        width = x.shape[-1]
        if self.pooled:
            h = _conv(_POOLED * width, 1, self.dtype, "expand", use_bias=False)(x)
            h = nn.relu(GroupNorm(_POOLED, dtype=self.dtype, name="norm")(h))
            x = x + _conv(width, 1, self.dtype, "reduce", use_bias=False)(h)
        h = x
        for i in range(3):
            h = _conv(width, 3, self.dtype, f"conv{i + 1}")(nn.relu(h) if i else h)
        return nn.relu(h + x)


class TinyEncoder(nn.Module):
    """Images in 0..1 to latents. Parameters: `stage_0` with `conv` and `block_0`, ...; `conv_out`.

    Attributes:
        outputs: channels of the latents.
        width: of all other maps.
        blocks: of each stage; each but the first begins with a convolution of stride 2.
        pooled: whether the last stage's blocks have their branch, see `TinyBlock`.
        dtype: of the convolutions.
    """

    outputs: int
    width: int = 64
    blocks: Sequence[int] = (1, 3, 3, 3)
    pooled: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw outputs"]:
        x = images.astype(self.dtype)
        for i, count in enumerate(self.blocks):
            pooled = self.pooled and i == len(self.blocks) - 1
            x = TinyStage(self.width, count, 2 if i else 1, pooled, self.dtype, name=f"stage_{i}")(x)
        return _conv(self.outputs, 3, self.dtype, "conv_out")(x)


class TinyStage(nn.Module):
    """A convolution, with a bias where it keeps the size, and blocks. Parameters: `conv`, `block_0`, ..."""

    width: int
    num_blocks: int
    stride: int
    pooled: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 width"]:
        x = _conv(self.width, 3, self.dtype, "conv", stride=self.stride, use_bias=self.stride == 1)(x)
        for i in range(self.num_blocks):
            x = TinyBlock(self.pooled, self.dtype, name=f"block_{i}")(x)
        return x


class TinyDecoder(nn.Module):
    """Latents to images in 0..1, which they may leave. Parameters: `conv_in`; `stage_0` with `block_0` and `conv`, ...

    Attributes:
        width: of all maps.
        blocks: of each stage; behind each but the last the sides double.
        pooled: whether the first stage's blocks have their branch, see `TinyBlock`.
        dtype: of the convolutions.
    """

    width: int = 64
    blocks: Sequence[int] = (3, 3, 3, 1)
    pooled: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        x = _LARGEST * jnp.tanh(latents / _LARGEST)
        x = nn.relu(_conv(self.width, 3, self.dtype, "conv_in")(x.astype(self.dtype)))
        for i, count in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            outputs, pooled = 3 if last else self.width, self.pooled and not i
            x = TinyUpStage(outputs, count, not last, pooled, self.dtype, name=f"stage_{i}")(x)
        return x


class TinyUpStage(nn.Module):
    """Blocks, and a convolution, which has a bias where nothing doubles. Parameters: `block_0`, ..., `conv`."""

    outputs: int
    num_blocks: int
    doubles: bool
    pooled: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 outputs"]:
        for i in range(self.num_blocks):
            x = TinyBlock(self.pooled, self.dtype, name=f"block_{i}")(x)
        x = doubled(x) if self.doubles else x
        return _conv(self.outputs, 3, self.dtype, "conv", use_bias=not self.doubles)(x)


def _conv(width: int, side: int, dtype: DTypeLike, name: str, **options: int | bool) -> Conv:
    return Conv(width, side, dtype=dtype, kernel_init=UNIFORM, name=name, **options)


class TinyAutoencoder(ImageTokenizer):
    """Images as maps of continuous latents, those of the autoencoder that it was distilled from, not scaled.

    Parameters, float32: `encoder` and `decoder`.

    Attributes:
        latent_width: channels of the latents.
        width: of all other maps.
        encoder_blocks: of each stage, from the full resolution down.
        decoder_blocks: of each stage, from the latents up.
        pooled: see `TinyBlock`; those at the lowest resolution.
        dtype: of the convolutions.
    """

    latent_width: int
    width: int = 64
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    pooled: bool = False
    dtype: DTypeLike = jnp.float32
    vocab_size = None

    def setup(self) -> None:
        self.encoder = TinyEncoder(self.latent_width, self.width, self.encoder_blocks, self.pooled, self.dtype)
        self.decoder = TinyDecoder(self.width, self.decoder_blocks, self.pooled, self.dtype)

    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> dict[str, Array]:
        """ "latents" [B, h, w, D] and "reconstruction" [B, H, W, 3] in -1..1, which it may leave a little; float32."""
        del train
        latents = self.encode(images)
        return {"latents": latents, "reconstruction": self.decode(latents)}

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        """One map, see `ImageTokenizer`."""
        return (grid_of(image_size, self.stride),)

    @property
    def stride(self) -> int:
        """Pixels along a side of a place."""
        return 2 ** (len(self.encoder_blocks) - 1)

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        """Latents."""
        check_images(images)
        self.grids(images.shape[1:3])
        return self.encoder(images * 0.5 + 0.5).astype(jnp.float32)

    def decode(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """Images of latents, of which those beyond 3 count little more."""
        return self.decoder(latents).astype(jnp.float32) * 2 - 1

    def flops(self, image_size: Grid) -> float:
        """Of one image through encoder and decoder."""
        places, width = image_size[0] * image_size[1], self.width
        square = product_flops(1, 9 * width, width)  # a convolution at one place
        branch = 2 * product_flops(1, width, _POOLED * width) if self.pooled else 0.0
        total = product_flops(places, 9 * 3, width) + product_flops(places, 9 * width, 3)
        stages = len(self.encoder_blocks)
        for i, (down, up) in enumerate(zip(self.encoder_blocks, reversed(self.decoder_blocks), strict=True)):
            here = places / 4**i
            lowest = i == stages - 1
            total += here * (down + up) * (3 * square + (branch if lowest else 0))
            # Into this stage by a stride of 2, and out of it behind doubling.
            total += (here + 4 * here) * square if i else 0
            total += here * product_flops(1, 9 * width, 2 * self.latent_width) if lowest else 0
        return total

    @classmethod
    def from_variant(
        cls,
        variant: str = "taesd",
        *,
        latent_width: Count | None = None,
        width: Count = 64,
        encoder_blocks: Sequence[Natural] = (1, 3, 3, 3),
        decoder_blocks: Sequence[Natural] = (3, 3, 3, 1),
        pooled: bool | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """An autoencoder of a published size, from values that JSON can hold.

        Args:
            variant: see `VARIANTS`; the arguments that are None here replace what it says.
            latent_width: see `TinyAutoencoder`, like the others.
            dtype: compute dtype by name; parameters and images are always float32.

        Raises:
            UserError: for an unknown variant, or a decoder of other stages than the encoder.
        """
        if variant not in VARIANTS:
            raise UserError(f"There is no tiny autoencoder named {variant!r}", nearest(variant, VARIANTS))
        size = VARIANTS[variant]
        if len(encoder_blocks) != len(decoder_blocks) or not encoder_blocks:
            raise UserError(
                f"{len(encoder_blocks)} stages down do not go with {len(decoder_blocks)} up", "Give as many of both"
            )
        return cls(
            latent_width=latent_width or size.latent_width, width=width, encoder_blocks=tuple(encoder_blocks),
            decoder_blocks=tuple(decoder_blocks), pooled=size.pooled if pooled is None else pooled,
            dtype=compute_dtype(dtype),
        )  # fmt: skip


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = TinyAutoencoder.from_variant
