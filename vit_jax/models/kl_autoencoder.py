"""The autoencoder of latent diffusion with a Gaussian in the middle: Rombach et al. (arXiv:2112.10752, section 3.1,
appendix D.1 and table 8). Stable Diffusion's is f8, MAR's (arXiv:2406.11838) f16.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.autoencoder import Layout
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer
from vit_jax.nn.images import check_images
from vit_jax.nn.unet_blocks import MapStyle
from vit_jax.nn.variational import split_moments
from vit_jax.ranges import Count, Natural, Positive

COLLECTION = "latents"  # of the state


class Size(NamedTuple):
    """Multipliers of the levels, levels with attention in encoder and decoder, channels of the latents, their scale."""

    multipliers: tuple[int, ...]
    attention_levels: tuple[int, ...]
    decoder_attention_levels: tuple[int, ...]
    latent_width: int
    scale: float | None = None


# By the reduction of each side. "f8" is Stable Diffusion's, "mar_f16" MAR's, whose decoder attends in the middle alone.
VARIANTS = {
    "f4": Size((1, 2, 4), (), (), 3),
    "f8": Size((1, 2, 4, 4), (), (), 4, 0.18215),
    "f16": Size((1, 1, 2, 2, 4), (4,), (4,), 16),
    "f32": Size((1, 1, 2, 2, 4, 4), (4, 5), (4, 5), 64),
    "mar_f16": Size((1, 1, 2, 2, 4), (4,), (), 16, 0.2325),
}


class KLAutoencoder(ImageTokenizer):
    """Images as maps of continuous latents, of which each has a Gaussian.

    Parameters, float32: `encoder` and `decoder`, see `vit_jax.nn.autoencoder`; `quant_conv` and `post_quant_conv`, 1x1
    convolutions of the moments and of the latents, where there are any. Where the scale is measured the collection
    "latents" has `scale`, 1 before the first step.

    Attributes:
        layout: sizes of encoder and decoder.
        latent_width: channels of the latents.
        scale: of the latents as others generate them: (z - shift) * scale. None to measure it in training: 1 over the
            standard deviation of all numbers in the last batch's latents.
        shift: see `scale`.
        convs: whether there are `quant_conv` and `post_quant_conv`.
    """

    layout: Layout
    latent_width: int
    scale: float | None = 1.0
    shift: float = 0.0
    convs: bool = True
    vocab_size = None

    def setup(self) -> None:
        style = self.layout.style
        self.encoder = self.layout.encoder(2 * self.latent_width)
        self.decoder = self.layout.decoder()
        if self.convs:
            self.quant_conv = style.conv(2 * self.latent_width, 1)
            self.post_quant_conv = style.conv(self.latent_width, 1)
        if self.scale is None:
            self.measured = self.variable(COLLECTION, "scale", jnp.ones, ())

    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> dict[str, Array]:
        """Everything that training and evaluation look at.

        Args:
            train: decode a draw from the latents' Gaussian, from the stream "dropout", instead of its mean; and measure
                the scale where it is not given.

        Returns:
            "reconstruction" [B, H, W, 3] in -1..1, which it may leave a little; "moments" [B, h, w, 2D], see `moments`;
            "latents" [B, h, w, D], the means; "kl" [B], the divergence from a standard normal distribution, summed over
            an image's latents before they are scaled, in nats. All are float32.
        """
        mean, log_variance = self._gaussian(images)
        variance = jnp.exp(log_variance)
        kl = 0.5 * (jnp.square(mean) + variance - 1 - log_variance).sum(axis=(1, 2, 3))
        latents = mean
        if train:
            noise = jax.random.normal(self.make_rng("dropout"), mean.shape)
            latents = mean + jnp.sqrt(variance) * noise
            if self.scale is None and not self.is_initializing():
                self.measured.value = 1 / jnp.maximum(jax.lax.stop_gradient(latents).std(), 1e-6)
        moments = self._scaled(mean, log_variance)
        return {
            "reconstruction": self._decoded(latents),
            "moments": moments,
            "latents": jnp.split(moments, 2, axis=-1)[0],
            "kl": kl,
        }

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        """One map, see `ImageTokenizer`."""
        return (self.layout.grid(image_size),)

    def moments(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw 2d"]:
        """Means, and behind them log variances between -30 and 20, of the latents in the scale in which others generate
        them: what to draw them from without this model."""
        return self._scaled(*self._gaussian(images))

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        """Means of the latents, scaled."""
        return jnp.split(self.moments(images), 2, axis=-1)[0]

    def decode(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """Images of scaled latents."""
        return self._decoded(latents / self._scale + self.shift)

    def flops(self, image_size: Grid) -> float:
        """Of one image through encoder and decoder."""
        width, places = self.latent_width, self.layout.stride**-2 * image_size[0] * image_size[1]
        convs = product_flops(places, width, width) + product_flops(places, 2 * width, 2 * width)
        return self.layout.flops(image_size, 2 * width, width) + (convs if self.convs else 0)

    @property
    def _scale(self) -> float | Float[Array, ""]:
        return self.measured.value if self.scale is None else self.scale

    def _scaled(self, mean: Array, log_variance: Array) -> Array:
        scale = self._scale
        return jnp.concatenate([(mean - self.shift) * scale, log_variance + 2 * jnp.log(scale)], axis=-1)

    def _gaussian(self, images: Array) -> tuple[Array, Array]:
        """Means and clipped log variances [B, h, w, D], not scaled."""
        check_images(images)
        self.layout.grid(images.shape[1:3])
        moments = self.encoder(images)
        moments = self.quant_conv(moments) if self.convs else moments
        return split_moments(moments)

    def _decoded(self, latents: Array) -> Array:
        latents = self.post_quant_conv(latents) if self.convs else latents
        return self.decoder(latents).astype(jnp.float32)

    @classmethod
    def from_variant(
        cls,
        variant: str = "f8",
        *,
        latent_width: Count | None = None,
        scale: Positive | Literal["measured"] | None = None,
        shift: float = 0.0,
        channels: Count = 128,
        multipliers: Sequence[Count] | None = None,
        num_blocks: Count = 2,
        attention_levels: Sequence[Natural] | None = None,
        decoder_attention_levels: Sequence[Natural] | None = None,
        middle_attention: bool = True,
        norm_groups: Count = 32,
        convs: bool = True,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """An autoencoder of a published size, from values that JSON can hold.

        Args:
            variant: see `VARIANTS`; the arguments that are None here replace what it says.
            latent_width: channels of the latents.
            scale: see `KLAutoencoder`; "measured" where training shall find it, as the variants without one do.
            shift: see `KLAutoencoder`, like `convs`.
            channels: see `vit_jax.nn.autoencoder.Layout`, like `multipliers`, `num_blocks` and `attention_levels`.
            decoder_attention_levels: those of the decoder; None for the variant's, or those of `attention_levels` where
                they are given.
            middle_attention: whether there is attention between the blocks of the middle.
            norm_groups: channels are normalised in so many groups.
            dtype: compute dtype by name; parameters, norms and moments are float32.

        Raises:
            UserError: for an unknown variant.
        """
        if variant not in VARIANTS:
            raise UserError(f"There is no autoencoder named {variant!r}", nearest(variant, VARIANTS))
        size = VARIANTS[variant]
        own = size.decoder_attention_levels if attention_levels is None else attention_levels
        levels = size.attention_levels if attention_levels is None else attention_levels
        layout = Layout(
            channels, tuple(multipliers or size.multipliers), num_blocks, tuple(levels),
            tuple(own if decoder_attention_levels is None else decoder_attention_levels), middle_attention,
            MapStyle(norm_groups, dtype=compute_dtype(dtype)),
        )  # fmt: skip
        scale = size.scale if scale is None else scale
        return cls(
            layout=layout, latent_width=latent_width or size.latent_width, scale=None if scale == "measured" else scale,
            shift=shift, convs=convs,
        )  # fmt: skip


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = KLAutoencoder.from_variant


def settled(kwargs: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same model with the scale that training measured among its arguments, as files of others have it, and what is
    left of its state.

    Args:
        state: by names such as 'latents/scale'.
    """
    measured = f"{COLLECTION}/scale"
    if measured not in state:
        return dict(kwargs), dict(state)
    left = {name: value for name, value in state.items() if name != measured}
    return {**kwargs, "scale": float(state[measured])}, left
