"""VAR's tokenizer: an autoencoder with multi-scale residual codes (Tian et al., arXiv:2404.02905, section 3.2).

Encoder and decoder are VQGAN's with the channels of its f16 model; between them a 3x3 convolution on each side of
`vit_jax.nn.multiscale_vq`. One set of weights serves images of any size: the scales are those of the size.
"""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.errors import UserError
from vit_jax.nn.autoencoder import Decoder, Encoder
from vit_jax.nn.conv import Conv
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer, grid_of
from vit_jax.nn.multiscale_vq import MultiScaleQuantizer, phi_of_scale, square_grids
from vit_jax.nn.unet_blocks import UNIFORM, MapStyle
from vit_jax.nn.vq import Codebook
from vit_jax.ranges import Count, Decay, Natural, NonNegative, Share

# By the side of the latents the sides of the maps of tokens: of images of 256, 512 and 1024 pixels (the authors' code).
SCALES = {
    16: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    32: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    64: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}


class VARTokenizer(ImageTokenizer):
    """Square images to maps of tokens from coarse to fine, and back.

    Parameters: `encoder`, `quant_conv`, `quantizer`, `post_quant_conv`, `decoder`.

    Attributes:
        encoder: of images to maps.
        quantizer: of maps to tokens.
        decoder: the way back.
        scales: side of each map of tokens, from coarse to fine; None for those in `SCALES`.
    """

    encoder: Encoder
    quantizer: MultiScaleQuantizer
    decoder: Decoder
    scales: tuple[int, ...] | None = None

    def setup(self) -> None:
        width, dtype = self.encoder.outputs, self.encoder.style.dtype
        self.quant_conv = Conv(width, 3, dtype=dtype, kernel_init=UNIFORM)
        self.post_quant_conv = Conv(width, 3, dtype=dtype, kernel_init=UNIFORM)

    @property
    def vocab_size(self) -> int:
        return self.quantizer.codebook.size

    @property
    def latent_width(self) -> int:
        return self.encoder.outputs

    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> dict[str, Array]:
        """What training needs.

        Returns:
            "reconstruction" [B, H, W, 3]; "latents" [B, h, w, D] before they are quantised; "indices" int32 [B, T];
            "quantizer_loss", a scalar.
        """
        latents = self.encode(images)
        found = self.quantizer(latents, self.grids(images.shape[1:3]), train)
        return {
            "reconstruction": self.decode(found.latents),
            "latents": latents,
            "indices": found.indices,
            "quantizer_loss": found.loss,
        }

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        """See `ImageTokenizer`."""
        latents = grid_of(image_size, self.encoder.stride)
        scales = self.scales or SCALES.get(latents[-1])
        if scales is None:
            raise UserError(
                f"No scales are known for latents of {latents[0]}x{latents[1]}", "Set the tokenizer's scales"
            )
        return square_grids(scales, latents)

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        """See `ImageTokenizer`."""
        return self.quant_conv(self.encoder(images)).astype(jnp.float32)

    def decode(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """See `ImageTokenizer`."""
        return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b t"]:
        """See `ImageTokenizer`."""
        return self.quantizer.tokenize(self.encode(images), self.grids(images.shape[1:3]))

    def embed(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "b gh gw d"]:
        """See `ImageTokenizer`."""
        return self.quantizer.embed(tokens, grids)

    def detokenize_scales(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "k b h w 3"]:
        """The image after each scale, from coarse to fine."""
        return jnp.stack([self.decode(x) for x in self.quantizer.sums(tokens, grids)])

    def inputs(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "b t_but_first d"]:
        """See `MultiScaleQuantizer.inputs`."""
        return self.quantizer.inputs(tokens, grids)

    def added(
        self, summed: Float[Array, "b gh gw d"], indices: Int[Array, "b h w"], scale: int, grids: tuple[Grid, ...]
    ) -> tuple[Float[Array, "b gh gw d"], Float[Array, "b next d"] | None]:
        """What generating needs of a scale: the sum with its tokens, and of that what the next scale sees; None behind
        the last."""
        summed = summed + self.quantizer.enlarged(indices, scale, grids)
        if scale == len(grids) - 1:
            return summed, None
        seen = self.quantizer.shrunk(summed, grids[scale + 1])
        return summed, seen.reshape(seen.shape[0], -1, seen.shape[-1])

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Float[Array, "1 h w 3"]]:
        """See `vit_jax.nn.example_inputs`: an image of the size that the scales are for."""
        if self.scales is not None:
            image_size = (self.encoder.stride * self.scales[-1],) * 2
        return (jnp.zeros((1, *image_size, 3)),)

    def flops(self, image_size: Grid) -> float:
        """Of an image through all of it, see `vit_jax.nn.flops`; looking codes up counts as a product."""
        grids, width = self.grids(image_size), self.encoder.outputs
        places, tokens = grids[-1][0] * grids[-1][1], sum(h * w for h, w in grids)
        convolution = product_flops(places, 9 * width, width)
        looking_up = product_flops(tokens, width, self.vocab_size)
        phis = len(grids) * convolution if self.quantizer.phis else 0.0
        return (
            self.encoder.flops(image_size) + self.decoder.flops(grids[-1], width) + 2 * convolution + looking_up + phis
        )


def build(
    *,
    num_classes: Natural = 0,
    scales: Sequence[Count] | None = None,
    vocab_size: Count = 4096,
    latent_width: Count = 32,
    channels: Count = 160,
    multipliers: Sequence[Count] = (1, 1, 2, 2, 4),
    num_blocks: Count = 2,
    attention_levels: Sequence[Natural] | None = None,
    middle_attends: bool = True,
    groups: Count = 32,
    phis: Natural = 4,
    phi_share: Share = 0.5,
    beta: NonNegative = 0.25,
    cosine: bool = False,
    decay: Decay | None = None,
    restart_below: NonNegative = 0.0,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> VARTokenizer:
    """The tokenizer; the defaults are those of the published one.

    Args:
        scales: side of each map of tokens; the last is that of the latents, the image's over 2 ** (levels - 1). None
            for those of `SCALES`, by the size of the image.
        vocab_size: codes of the codebook.
        latent_width: of the latents and codes.
        channels: see `vit_jax.nn.autoencoder.Encoder`, like `multipliers`, `num_blocks` and `middle_attends`.
        attention_levels: see the same; None for the last.
        groups: of channels that are normalised together.
        phis: see `MultiScaleQuantizer`, like `beta` and `cosine`; `phi_share` is its `share`.
        decay: see `vit_jax.nn.vq.Codebook`, like `restart_below`; None for codes that learn by a gradient, as the
            authors' do.
        dtype: compute dtype of encoder and decoder by name; parameters and the quantiser are float32.

    Raises:
        UserError: for classes, or a value that does not fit the others.
    """
    if num_classes:
        raise UserError("A tokenizer has no head for classes", "Leave out num_classes")
    if attention_levels is None:
        attention_levels = (len(multipliers) - 1,)
    count = 10 if scales is None else len(scales)
    if phis and {phi_of_scale(k, count, phis) for k in range(count)} != set(range(phis)):
        raise UserError(f"Not all of {phis} convolutions have one of {count} scales", "Use fewer phis, such as 1")
    how = {
        "channels": channels, "multipliers": tuple(multipliers), "num_blocks": num_blocks,
        "attention_levels": tuple(attention_levels), "middle_attends": middle_attends,
        "style": MapStyle(groups=groups, dtype=compute_dtype(dtype)),
    }  # fmt: skip
    codebook = Codebook(vocab_size, latent_width, decay, restart_below, parent=None)
    return VARTokenizer(
        Encoder(latent_width, **how, parent=None),
        MultiScaleQuantizer(codebook, phis, phi_share, beta, cosine, parent=None),
        Decoder(**how, parent=None),
        None if scales is None else tuple(scales),
    )
