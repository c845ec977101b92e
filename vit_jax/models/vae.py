"""Variational autoencoders of images ("Auto-encoding variational Bayes", Kingma and Welling, arXiv:1312.6114), with the
convolutions of the VQ-VAE around a map of Gaussians."""

import math
from typing import Annotated, Literal, Self

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.nn import variational
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer, grid_of
from vit_jax.nn.images import check_images
from vit_jax.nn.strided_coder import StridedDecoder, StridedEncoder, halvings
from vit_jax.ranges import Count, Natural, Positive, Range


class VAE(ImageTokenizer):
    """See `VAE.from_values`.

    Parameters: `encoder`, `decoder`, and `log_variance` of a Gaussian decoder that learns its variance.

    Attributes:
        encoder: images to means and logarithms of variances.
        decoder: latents to what says how likely an image is.
        likelihood: "gaussian" around the image that comes out, or "bernoulli" of values in 0..1, whose logits come out.
        variance: of the Gaussian, in images in -1..1; None to learn one for all pixels (sigma-VAE, arXiv:2006.13202).
    """

    encoder: StridedEncoder
    decoder: StridedDecoder
    likelihood: str = "gaussian"
    variance: float | None = 1.0

    vocab_size = None

    def setup(self) -> None:
        if self._learns_variance:
            self.log_variance = self.param("log_variance", nn.initializers.zeros, ())

    @property
    def latent_width(self) -> int:
        return self.encoder.out // 2

    @property
    def _learns_variance(self) -> bool:
        return self.likelihood == "gaussian" and self.variance is None

    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> dict[str, Array]:
        """Encodes, and decodes the means.

        Returns:
            "reconstruction" [B, H, W, 3] in -1..1; "moments" [B, h, w, 2 D], means and logarithms of variances;
            "latents" [B, h, w, D], the means.
        """
        del train
        moments = self.moments(images)
        latents = variational.split_moments(moments)[0]
        return {"reconstruction": self.decode(latents), "moments": moments, "latents": latents}

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        return (grid_of(image_size, self.encoder.factor),)

    def moments(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw twice"]:
        """Means and logarithms of variances of latents."""
        check_images(images)
        return self.encoder(images)

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        return variational.split_moments(self.moments(images))[0]

    def decode(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """Images: the mean of their distribution."""
        decoded = self.decoder(latents)
        return 2 * jax.nn.sigmoid(decoded) - 1 if self.likelihood == "bernoulli" else decoded

    def log_likelihood(self, latents: Float[Array, "b gh gw d"], images: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        """How likely images are with these latents, in nats: a density where they are Gaussian."""
        decoded = self.decoder(latents)
        if self.likelihood == "bernoulli":
            return variational.bernoulli(images * 0.5 + 0.5, decoded)
        known = self.log_variance if self._learns_variance else math.log(self.variance)
        return variational.gaussian(images, decoded, known)

    def flops(self, image_size: Grid) -> float:
        """Those of convolutions."""
        grid = self.grids(image_size)[0]
        return self.encoder.flops(grid) + self.decoder.flops(grid, self.latent_width)

    @classmethod
    def from_values(
        cls,
        *,
        width: Count = 128,
        hidden: Count | None = None,
        depth: Natural = 2,
        factor: Annotated[int, Range(2)] = 4,
        latent_width: Count = 4,
        likelihood: Literal["gaussian", "bernoulli"] = "gaussian",
        variance: Positive | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """A VAE from values that JSON can hold.

        Args:
            width: see `vit_jax.nn.strided_coder.StridedEncoder`, like `hidden` (the same by default), `depth` and
                `factor`.
            latent_width: numbers of a place.
            likelihood: see `VAE`, like `variance`.
            dtype: compute dtype by name; parameters, latents and images are always float32.

        Raises:
            UserError: for values that do not go together.
        """
        halvings(factor)
        inner = (width, hidden or width, depth, factor, compute_dtype(dtype))
        return cls(StridedEncoder(2 * latent_width, *inner), StridedDecoder(3, *inner), likelihood, variance)


build = VAE.from_values
