"""DALL-E's discrete VAE: Ramesh et al., "Zero-shot text-to-image generation" (arXiv:2102.12092, section 2.1 and
appendix A.1), with the sizes of the published one (github.com/openai/DALL-E).
"""

from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from vit_jax.errors import UserError
from vit_jax.nn.conv import Conv
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer, grid_of
from vit_jax.nn.images import check_images
from vit_jax.nn.unet_blocks import doubled
from vit_jax.nn.vq import divergence_from_uniform, gumbel_softmax
from vit_jax.ranges import Count, Range

LAPLACE_EPSILON = 0.1  # pixels go from it to 1 minus it, where their logits are finite
_GROUPS = 4  # of blocks, with half the sides from one to the next
_STRIDE = 2 ** (_GROUPS - 1)


def squeezed(images: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Images in -1..1 as values between `LAPLACE_EPSILON` and 1 minus it."""
    return (1 - 2 * LAPLACE_EPSILON) * (images * 0.5 + 0.5) + LAPLACE_EPSILON


def logit_laplace(
    squeezed_pixels: Float[Array, "*b"], location: Float[Array, "*b"], log_scale: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """Log densities of values between 0 and 1 whose logits have a Laplace distribution (appendix A.3).

    Args:
        location: of the logits.
        log_scale: the logarithm of the distribution's scale b.
    """
    x = squeezed_pixels
    logits = jnp.log(x) - jnp.log1p(-x)
    return -jnp.abs(logits - location) * jnp.exp(-log_scale) - log_scale - jnp.log(2 * x * (1 - x))


class DVAEBlock(nn.Module):
    """Four convolutions, each behind ReLU, added with a small weight to what comes in.

    Parameters, float32: `conv1` to `conv4`, three of them 3x3 and one 1x1; `shortcut`, 1x1, where the width changes.

    Attributes:
        width: channels that come out, four times as many as between.
        gain: weight of the convolutions.
        one_by_one: which of the four is 1x1: the encoder's last one, the decoder's first.
        dtype: of the convolutions.
    """

    width: int
    gain: float
    one_by_one: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w width"]:
        h = x
        for i in range(4):
            width, side = self.width if i == 3 else self.width // 4, 1 if i == self.one_by_one else 3
            h = _conv(width, side, self.dtype, f"conv{i + 1}")(nn.relu(h))
        if x.shape[-1] != self.width:
            x = _conv(self.width, 1, self.dtype, "shortcut")(x)
        return x + self.gain * h

    def flops(self, channels: int, places: int) -> float:
        """Of one map of so many channels and places."""
        hidden = self.width // 4
        first, last = (9, 1) if self.one_by_one else (1, 9)
        total = product_flops(places, first * channels, hidden) + 2 * product_flops(places, 9 * hidden, hidden)
        total += product_flops(places, last * hidden, self.width)
        return total + (product_flops(places, channels, self.width) if channels != self.width else 0.0)


class DVAEEncoder(nn.Module):
    """Images to logits of codes. Parameters: `input`, 7x7; `group_0` with `block_0`, ...; `output`, 1x1 and in float32.

    Attributes:
        vocab_size: number of codes.
        hidden: channels of the first group; each next one has twice as many.
        num_blocks: of a group.
        dtype: of the convolutions.
    """

    vocab_size: int
    hidden: int = 256
    num_blocks: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw k"]:
        x = _conv(self.hidden, 7, self.dtype, "input")(images)
        for i in range(_GROUPS):
            x = self._group(i, name=f"group_{i}")(x)
            if i < _GROUPS - 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return _conv(self.vocab_size, 1, jnp.float32, "output")(nn.relu(x).astype(jnp.float32))

    def flops(self, image_size: Grid) -> float:
        """Of one image."""
        places, channels = image_size[0] * image_size[1], self.hidden
        total = product_flops(places, 49 * 3, channels)
        for i in range(_GROUPS):
            group = self._group(i, parent=None)
            total += group.flops(channels, places // 4**i)
            channels = group.width
        return total + product_flops(places // 4 ** (_GROUPS - 1), channels, self.vocab_size)

    def _group(self, i: int, **owner: str | None) -> "DVAEGroup":
        gain = 1 / (_GROUPS * self.num_blocks) ** 2
        return DVAEGroup(2**i * self.hidden, self.num_blocks, gain, 3, self.dtype, **owner)


class DVAEDecoder(nn.Module):
    """Codes to what their pixels are drawn from. Parameters: `input`, a dense layer [K, D] whose rows are the codes;
    `group_0` with `block_0`, ...; `output`, 1x1.

    Attributes:
        vocab_size: number of codes.
        width: of a code.
        hidden: channels of the last group; each before it has twice as many.
        num_blocks: of a group.
        dtype: of the convolutions.
    """

    vocab_size: int
    width: int = 128
    hidden: int = 256
    num_blocks: int = 2
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.input = nn.Dense(self.width, kernel_init=_NORMAL)
        self.groups = [self._group(i, name=f"group_{i}") for i in range(_GROUPS)]
        self.output = _conv(6, 1, self.dtype, None)

    def __call__(self, shares: Float[Array, "b gh gw k"]) -> Float[Array, "b h w 6"]:
        """Location and log scale of each channel's logits, for shares of the codes that add up to 1."""
        return self.decode(self.mixed(shares))

    def mixed(self, shares: Float[Array, "b gh gw k"]) -> Float[Array, "b gh gw width"]:
        """The mean of the codes."""
        return self.input(shares)

    def embed(self, tokens: Int[Array, "b gh gw"]) -> Float[Array, "b gh gw width"]:
        """The codes of indices: `mixed` of one share alone, without making all of them."""
        layer = self.input.variables["params"]
        return layer["kernel"][tokens] + layer["bias"]

    def decode(self, latents: Float[Array, "b gh gw width"]) -> Float[Array, "b h w 6"]:
        """What is behind the codes."""
        x = latents.astype(self.dtype)
        for i, group in enumerate(self.groups):
            x = group(x)
            x = doubled(x) if i < _GROUPS - 1 else x
        return self.output(nn.relu(x)).astype(jnp.float32)

    def flops(self, grid: Grid) -> float:
        """Of a map of so many rows and columns of indices."""
        places, channels, total = grid[0] * grid[1], self.width, 0.0
        for i in range(_GROUPS):
            group = self._group(i, parent=None)
            total += group.flops(channels, places * 4**i)
            channels = group.width
        return total + product_flops(places * _STRIDE**2, channels, 6)

    def _group(self, i: int, **owner: str | None) -> "DVAEGroup":
        gain = 1 / (_GROUPS * self.num_blocks) ** 2
        return DVAEGroup(2 ** (_GROUPS - 1 - i) * self.hidden, self.num_blocks, gain, 0, self.dtype, **owner)


class DVAEGroup(nn.Module):
    """Blocks of one width. Parameters: `block_0`, ..."""

    width: int
    num_blocks: int
    gain: float
    one_by_one: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w width"]:
        for i in range(self.num_blocks):
            x = self._block(name=f"block_{i}")(x)
        return x

    def flops(self, channels: int, places: int) -> float:
        """Of one map of so many channels and places."""
        block = self._block(parent=None)
        return block.flops(channels, places) + (self.num_blocks - 1) * block.flops(self.width, places)

    def _block(self, **owner: str | None) -> DVAEBlock:
        return DVAEBlock(self.width, self.gain, self.one_by_one, self.dtype, **owner)


_NORMAL = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def _conv(width: int, side: int, dtype: DTypeLike, name: str | None) -> Conv:
    return Conv(width, side, dtype=dtype, kernel_init=_NORMAL, name=name)


class DVAE(ImageTokenizer):
    """Images as indices, one for 8x8 pixels, that are drawn from a softmax in training.

    Parameters, float32: `encoder` and `decoder`.

    Attributes:
        vocab_size: number of codes.
        latent_width: of a code.
        hidden: channels at the full resolution.
        num_blocks: of a group.
        has_decoder: False for an encoder alone, which some publish.
        dtype: of the convolutions; logits and pixels are float32.
    """

    vocab_size: int = 8192
    latent_width: int = 128
    hidden: int = 256
    num_blocks: int = 2
    has_decoder: bool = True
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.encoder = DVAEEncoder(self.vocab_size, self.hidden, self.num_blocks, self.dtype)
        if self.has_decoder:
            self.decoder = DVAEDecoder(self.vocab_size, self.latent_width, self.hidden, self.num_blocks, self.dtype)

    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool = False, tau: float | Float[Array, ""] = 1.0
    ) -> dict[str, Array]:
        """Everything that training and evaluation look at.

        Args:
            train: codes are drawn with a gradient, see `vit_jax.nn.vq.gumbel_softmax`, from the stream "dropout";
                otherwise each is the most probable one.
            tau: temperature of those draws.

        Returns:
            "indices" int32 [B, T], the most probable codes; "kl" [B], the divergence of the codes' probabilities from
            equal ones, in nats, summed over an image; "code_logits" [B, h, w, K]. With a decoder also "latents"
            [B, h, w, D], see `encode`; "location" and "log_scale" [B, H, W, 3] of the logits of pixels that are
            `squeezed`, and "reconstruction" [B, H, W, 3] in -1..1, their middle. All but the indices are float32.
        """
        logits = self._logits(images)
        indices = logits.argmax(-1).astype(jnp.int32)
        found = {
            "indices": indices.reshape(len(images), -1),
            "kl": divergence_from_uniform(logits).sum(axis=(1, 2)),
            "code_logits": logits,
        }
        if not self.has_decoder:
            return found
        if train:
            drawn = self.decoder(gumbel_softmax(self.make_rng("dropout"), logits, tau))
        elif self.is_initializing():
            drawn = self.decoder(jax.nn.softmax(logits))
        else:
            drawn = self.decoder.decode(self.decoder.embed(indices))
        location, log_scale = jnp.split(drawn, 2, axis=-1)
        return found | {
            "latents": self.decoder.mixed(jax.nn.softmax(logits)),
            "location": location,
            "log_scale": log_scale,
            "reconstruction": self._middle(location),
        }

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        """One map, see `ImageTokenizer`."""
        return (grid_of(image_size, _STRIDE),)

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        """The mean of the codes by their probabilities: before the choice of one."""
        self._check_decoder()
        return self.decoder.mixed(jax.nn.softmax(self._logits(images)))

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b t"]:
        """The most probable codes in the order of reading."""
        return self._logits(images).argmax(-1).astype(jnp.int32).reshape(len(images), -1)

    def embed(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "b gh gw d"]:
        """The codes of indices."""
        self._check_decoder()
        return self.decoder.embed(tokens.reshape(-1, *grids[0]))

    def decode(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """Images of codes, or of what lies between them."""
        self._check_decoder()
        return self._middle(self.decoder.decode(latents)[..., :3])

    def flops(self, image_size: Grid) -> float:
        """Of one image through encoder and decoder, where there is one."""
        encoder = DVAEEncoder(self.vocab_size, self.hidden, self.num_blocks, parent=None).flops(image_size)
        if not self.has_decoder:
            return encoder
        decoder = DVAEDecoder(self.vocab_size, self.latent_width, self.hidden, self.num_blocks, parent=None)
        return encoder + decoder.flops(self.grids(image_size)[0])

    def _logits(self, images: Array) -> Array:
        check_images(images)
        self.grids(images.shape[1:3])
        return self.encoder(squeezed(images))

    def _middle(self, location: Array) -> Array:
        pixels = (jax.nn.sigmoid(location) - LAPLACE_EPSILON) / (1 - 2 * LAPLACE_EPSILON)
        return 2 * pixels - 1

    def _check_decoder(self) -> None:
        if not self.has_decoder:
            raise UserError("This tokenizer is an encoder alone, which makes no images", "Load one with its decoder")


def build(
    *,
    num_codes: Count = 8192,
    code_width: Count = 128,
    hidden: Annotated[int, Range(4)] = 256,
    num_blocks: Count = 2,
    decoder: bool = True,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> DVAE:
    """A discrete VAE, by default of the published size, from values that JSON can hold.

    Args:
        num_codes: see `DVAE`, like the others.
        code_width: of a code.
        hidden: channels at the full resolution, a multiple of 4.
        decoder: False for an encoder alone.
        dtype: compute dtype by name.

    Raises:
        UserError: for channels that 4 does not divide.
    """
    if hidden % 4:
        raise UserError(f"{hidden} channels do not divide by 4", "Set hidden to a multiple of 4")
    return DVAE(
        vocab_size=num_codes, latent_width=code_width, hidden=hidden, num_blocks=num_blocks, has_decoder=decoder,
        dtype=compute_dtype(dtype),
    )  # fmt: skip
