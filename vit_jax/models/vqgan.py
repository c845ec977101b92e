"""VQGAN: Esser et al., "Taming transformers for high-resolution image synthesis" (arXiv:2012.09841), and the
vector-quantised first stages of latent diffusion (arXiv:2112.10752, appendix D.1 and table 8).

A convolutional encoder, a codebook, a decoder. The discriminator and the perceptual loss that it is trained with belong
to its task.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.autoencoder import Layout
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer
from vit_jax.nn.images import check_images
from vit_jax.nn.unet_blocks import MapStyle
from vit_jax.nn.vq import Codebook, GumbelQuantizer, VectorQuantizer, entropy_loss, squared_distances
from vit_jax.ranges import Count, Decay, Natural, NonNegative


class Size(NamedTuple):
    """Multipliers of the levels, levels with attention, channels of the latents, number of codes, kind of quantiser."""

    multipliers: tuple[int, ...]
    attention_levels: tuple[int, ...]
    latent_channels: int
    num_codes: int
    quantizer: str = "vector"


# Taming's f16 of 1,024 and of 16,384 codes and its f8 with Gumbel; latent diffusion's, whose latents are narrow.
VARIANTS = {
    "f16": Size((1, 1, 2, 2, 4), (4,), 256, 1024),
    "f16_16384": Size((1, 1, 2, 2, 4), (4,), 256, 16384),
    "gumbel_f8": Size((1, 1, 2, 4), (3,), 256, 8192, "gumbel"),
    "ldm_f4": Size((1, 2, 4), (), 3, 8192),
    "ldm_f8": Size((1, 2, 2, 4), (3,), 4, 16384),
    "ldm_f16": Size((1, 1, 2, 2, 4), (4,), 8, 16384),
}


class VQGAN(ImageTokenizer):
    """Images as indices of a codebook, one for each place of a map.

    Parameters, float32: `encoder` and `decoder`, see `vit_jax.nn.autoencoder`; `quant_conv` and `post_quant_conv`, 1x1
    convolutions before and behind the `quantizer`, see `vit_jax.nn.vq`.

    Attributes:
        layout: sizes of encoder and decoder.
        latent_channels: that the encoder gives and the decoder takes.
        latent_width: of a code.
        vocab_size: number of codes.
        quantizer_kind: "vector" for the nearest code; "gumbel" for the most probable one of a linear layer, drawn in
            training.
        beta: see `VectorQuantizer`, like `legacy`.
        decay: see `Codebook`, like `restart_below` and `cosine`.
        kl_weight: see `GumbelQuantizer`.
        entropy_weight: of MaskGIT's entropy loss, see `vit_jax.nn.vq.entropy_loss`.
        has_decoder: False for an encoder alone, which some publish.
    """

    layout: Layout
    latent_channels: int
    latent_width: int
    vocab_size: int
    quantizer_kind: str = "vector"
    beta: float = 0.25
    legacy: bool = True
    decay: float | None = None
    restart_below: float = 0.0
    cosine: bool = False
    kl_weight: float = 5e-4
    entropy_weight: float = 0.0
    has_decoder: bool = True
    finds_codes = True

    def setup(self) -> None:
        style = self.layout.style
        self.encoder = self.layout.encoder(self.latent_channels)
        self.quant_conv = style.conv(self.latent_width, 1)
        if self.quantizer_kind == "gumbel":
            self.quantizer = GumbelQuantizer(self.vocab_size, self.latent_width, self.kl_weight)
        else:
            codebook = Codebook(self.vocab_size, self.latent_width, self.decay, self.restart_below, self.cosine)
            self.quantizer = VectorQuantizer(codebook, self.beta, self.legacy)
        self.post_quant_conv = style.conv(self.latent_channels, 1)
        if self.has_decoder:
            self.decoder = self.layout.decoder()

    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool = False, tau: float | Float[Array, ""] = 1.0
    ) -> dict[str, Array]:
        """Everything that training and evaluation look at.

        Args:
            train: averages of the codebook move, and Gumbel's codes are drawn.
            tau: temperature of those draws.

        Returns:
            "latents" [B, h, w, D] as they are before they are quantised, "indices" int32 [B, T], "quantizer_loss", a
            scalar; and "reconstruction" [B, H, W, 3] in -1..1, which it may leave a little. Without a decoder
            "decoder_input" [B, h, w, Z] instead. All are float32.
        """
        latents = self.encode(images)
        quantized = self.quantizer(latents, *((tau,) if self.quantizer_kind == "gumbel" else ()), train=train)
        loss = quantized.loss
        if self.entropy_weight:
            book = self.quantizer.codebook
            distances = squared_distances(book.seen(latents), book.table())
            loss = loss + self.entropy_weight * entropy_loss(-distances)
        found = {
            "latents": latents,
            "indices": quantized.indices.reshape(len(images), -1),
            "quantizer_loss": loss,
        }
        if not self.has_decoder:
            return found | {"decoder_input": self.post_quant_conv(quantized.latents).astype(jnp.float32)}
        return found | {"reconstruction": self.decode(quantized.latents)}

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        """One map, see `ImageTokenizer`."""
        return (self.layout.grid(image_size),)

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        """Latents as the quantiser sees them; of Gumbel's those that its linear layer sees."""
        check_images(images)
        self.layout.grid(images.shape[1:3])
        return self.quant_conv(self.encoder(images)).astype(jnp.float32)

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b t"]:
        """Indices in the order of reading."""
        return self.quantizer(self.encode(images)).indices.reshape(len(images), -1)

    def embed(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "b gh gw d"]:
        """The codes of indices."""
        return self.quantizer.embed(tokens.reshape(-1, *grids[0]))

    def decode(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """Images of codes, or of what lies between them.

        Raises:
            UserError: for an encoder alone.
        """
        if not self.has_decoder:
            raise UserError("This tokenizer is an encoder alone, which makes no images", "Load one with its decoder")
        return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)

    def decode_near(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """Images of the codes next to any latents, see `ImageTokenizer`."""
        return self.decode(self.quantizer(latents).latents)

    def flops(self, image_size: Grid) -> float:
        """Of one image through encoder, look-up and decoder."""
        places = self.layout.stride**-2 * image_size[0] * image_size[1]
        convs = 2 * product_flops(places, self.latent_channels, self.latent_width)
        lookup = product_flops(places, self.latent_width, self.vocab_size)
        return self.layout.flops(image_size, self.latent_channels, self.latent_channels) + convs + lookup

    @classmethod
    def from_variant(
        cls,
        variant: str = "f16",
        *,
        num_codes: Count | None = None,
        latent_channels: Count | None = None,
        code_width: Count | None = None,
        channels: Count = 128,
        multipliers: Sequence[Count] | None = None,
        num_blocks: Count = 2,
        attention_levels: Sequence[Natural] | None = None,
        decoder_attention_levels: Sequence[Natural] | None = None,
        middle_attention: bool = True,
        norm_groups: Count = 32,
        quantizer: Literal["vector", "gumbel"] | None = None,
        beta: NonNegative = 0.25,
        legacy: bool = True,
        decay: Decay | None = None,
        restart_below: NonNegative = 0.0,
        cosine: bool = False,
        kl_weight: NonNegative = 5e-4,
        entropy_weight: NonNegative = 0.0,
        decoder: bool = True,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """A VQGAN of a published size, from values that JSON can hold.

        Args:
            variant: see `VARIANTS`; the arguments that are None here replace what it says.
            num_codes: of the codebook.
            latent_channels: that the encoder gives and the decoder takes.
            code_width: of a code; as many as `latent_channels` where it is None.
            channels: see `vit_jax.nn.autoencoder.Layout`, like `multipliers`, `num_blocks` and `attention_levels`. The
                papers say at which side of an image of 256 pixels there is attention: 16 is level 4.
            decoder_attention_levels: those of the decoder, where they are others.
            middle_attention: whether there is attention between the blocks of the middle.
            norm_groups: channels are normalised in so many groups.
            quantizer: see `VQGAN`.
            beta: weight of the commitment, see `vit_jax.nn.vq.codebook_loss`.
            legacy: `beta` weighs the other half of the loss, as in the published models.
            decay: the codebook learns by moving averages, see `vit_jax.nn.vq.Codebook`, like `restart_below`.
            cosine: codes and latents have length 1.
            kl_weight: see `vit_jax.nn.vq.GumbelQuantizer`.
            entropy_weight: see `VQGAN`.
            decoder: False for an encoder alone.
            dtype: compute dtype by name; parameters, norms and the look-up are float32.

        Raises:
            UserError: for an unknown variant, or options of one quantiser for the other.
        """
        if variant not in VARIANTS:
            raise UserError(f"There is no VQGAN named {variant!r}", nearest(variant, VARIANTS))
        size = VARIANTS[variant]
        kind = quantizer or size.quantizer
        if kind == "gumbel" and (decay is not None or restart_below or cosine or entropy_weight):
            raise UserError(
                "Gumbel's quantiser has no moving averages, restarts, cosine or entropy loss",
                "Set config.model.quantizer=vector",
            )
        levels = size.attention_levels if attention_levels is None else attention_levels
        layout = Layout(
            channels, tuple(multipliers or size.multipliers), num_blocks, tuple(levels),
            None if decoder_attention_levels is None else tuple(decoder_attention_levels), middle_attention,
            MapStyle(norm_groups, dtype=compute_dtype(dtype)),
        )  # fmt: skip
        latents = latent_channels or size.latent_channels
        learning: dict[str, Any] = {
            "beta": beta, "legacy": legacy, "decay": decay, "restart_below": restart_below, "cosine": cosine,
            "kl_weight": kl_weight, "entropy_weight": entropy_weight,
        }  # fmt: skip
        return cls(
            layout=layout, latent_channels=latents, latent_width=code_width or latents,
            vocab_size=num_codes or size.num_codes, quantizer_kind=kind, has_decoder=decoder, **learning,
        )  # fmt: skip


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = VQGAN.from_variant
