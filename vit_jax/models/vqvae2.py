"""The VQ-VAE-2 of two levels: small maps of codes for what an image shows, larger ones for how it looks ("Generating
diverse high-fidelity images with VQ-VAE-2", Razavi et al., arXiv:1906.00446)."""

from typing import Annotated, Literal, Self

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from vit_jax.nn.conv import Conv, ConvTranspose
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer, grid_of
from vit_jax.nn.images import check_images
from vit_jax.nn.strided_coder import StridedDecoder, StridedEncoder, halvings
from vit_jax.nn.vq import Codebook, Quantized, VectorQuantizer
from vit_jax.ranges import Count, Decay, Natural, NonNegative, Range


class VQVAE2(ImageTokenizer):
    """See `VQVAE2.from_values`.

    The tokens of the coarse map stand first, then those of the fine one, of which a place depends on the codes of the
    coarse map too. Each level has its own codebook, of equal size. Latents [B, h, w, 2 D] are as large as the fine map;
    the coarse ones stand first, each for 2x2 places.

    Parameters: `encoder` (to the fine map), `coarse_encoder`, `coarse_quantizer`, `coarse_decoder` (to the fine map),
    `fine` (a 1x1 convolution of both to what becomes fine codes), `quantizer`, `up` (coarse codes to the fine map),
    `decoder`.

    Attributes:
        width: channels, see `StridedEncoder`, like `hidden` and `depth`.
        factor: pixels along a side of a place of the fine map; of the coarse one twice as many.
        code_width: of a code, D.
        codebook: the pattern of both.
        beta: see `vit_jax.nn.vq.codebook_loss`.
        dtype: of the computation.
    """

    width: int
    hidden: int
    depth: int
    factor: int
    code_width: int
    codebook: Codebook
    beta: float
    dtype: jnp.dtype = jnp.float32

    one_codebook = False

    def setup(self) -> None:
        inner = {"width": self.width, "hidden": self.hidden, "depth": self.depth, "dtype": self.dtype}
        self.encoder = StridedEncoder(self.width, factor=self.factor, **inner)
        self.coarse_encoder = StridedEncoder(self.code_width, factor=2, **inner)
        self.coarse_quantizer = VectorQuantizer(self.codebook.clone(), self.beta)
        self.coarse_decoder = StridedDecoder(self.code_width, factor=2, **inner)
        self.fine = Conv(self.code_width, 1)
        self.quantizer = VectorQuantizer(self.codebook.clone(), self.beta)
        self.up = ConvTranspose(self.code_width, 4, 2, padding=1)
        self.decoder = StridedDecoder(3, factor=self.factor, **inner)

    @property
    def latent_width(self) -> int:
        return 2 * self.code_width

    @property
    def vocab_size(self) -> int:
        return self.codebook.size

    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> dict[str, Array]:
        """See `vit_jax.models.vqvae.VQVAE`; the loss of the quantisers is the sum of both."""
        latents, coarse, fine = self._quantized(images, train)
        return {
            "reconstruction": self._decoded(coarse.latents, fine.latents),
            "latents": latents,
            "indices": _flat(coarse, fine),
            "quantizer_loss": coarse.loss + fine.loss,
        }

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        coarse = grid_of(image_size, 2 * self.factor)
        return coarse, (2 * coarse[0], 2 * coarse[1])

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        return self._quantized(images, False)[0]

    def decode(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        return self._decoded(latents[:, ::2, ::2, : self.code_width], latents[..., self.code_width :])

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b t"]:
        return _flat(*self._quantized(images, False)[1:])

    def embed(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "b gh gw d"]:
        coarse, fine = grids
        count = coarse[0] * coarse[1]
        first = self.coarse_quantizer.embed(tokens[:, :count].reshape(-1, *coarse))
        return _joined(first, self.quantizer.embed(tokens[:, count:].reshape(-1, *fine)))

    def flops(self, image_size: Grid) -> float:
        """Those of convolutions and distances."""
        coarse, fine = self.grids(image_size)
        inner = {"width": self.width, "hidden": self.hidden, "depth": self.depth, "parent": None}
        width, small, large = self.code_width, coarse[0] * coarse[1], fine[0] * fine[1]
        return (
            StridedEncoder(self.width, factor=self.factor, **inner).flops(fine)
            + StridedEncoder(width, factor=2, **inner).flops(coarse, self.width)
            + StridedDecoder(width, factor=2, **inner).flops(coarse, width)
            + product_flops(large, self.width + width, width)
            + product_flops(small, 16 * width, width)
            + product_flops(small + large, width, self.vocab_size)
            + StridedDecoder(3, factor=self.factor, **inner).flops(fine, 2 * width)
        )

    def _quantized(self, images: Array, train: bool) -> tuple[Array, Quantized, Quantized]:
        check_images(images)
        grid_of(images.shape[1:3], 2 * self.factor)
        seen = self.encoder(images)
        coarse_latents = self.coarse_encoder(nn.relu(seen))
        coarse = self.coarse_quantizer(coarse_latents, train)
        told = self.coarse_decoder(coarse.latents)
        fine_latents = self.fine(jnp.concatenate([told, seen], -1))
        return _joined(coarse_latents, fine_latents), coarse, self.quantizer(fine_latents, train)

    def _decoded(self, coarse: Array, fine: Array) -> Float[Array, "b h w 3"]:
        return self.decoder(jnp.concatenate([self.up(coarse), fine], -1))

    @classmethod
    def from_values(
        cls,
        *,
        width: Count = 128,
        hidden: Count | None = None,
        depth: Natural = 2,
        factor: Annotated[int, Range(2)] = 4,
        code_width: Count = 64,
        vocab_size: Count = 512,
        decay: Decay | None = 0.99,
        restart_below: NonNegative = 0.0,
        beta: NonNegative = 0.25,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """A VQ-VAE-2 from values that JSON can hold; by default 32x32 and 64x64 codes of an image of 256x256 pixels.

        Args:
            width: see `VQVAE2`, like `hidden` (the same by default), `depth`, `factor`, `code_width` and `beta`.
            vocab_size: number of codes of each level.
            decay: see `vit_jax.nn.vq.Codebook`, like `restart_below`.
            dtype: compute dtype by name; parameters, latents and images are always float32.

        Raises:
            UserError: for values that do not go together.
        """
        halvings(factor)
        book = Codebook(vocab_size, code_width, decay, restart_below)
        return cls(width, hidden or width, depth, factor, code_width, book, beta, compute_dtype(dtype))


def _joined(coarse: Float[Array, "b ch cw d"], fine: Float[Array, "b h w d"]) -> Float[Array, "b h w twice"]:
    return jnp.concatenate([coarse.repeat(2, axis=1).repeat(2, axis=2), fine], -1)


def _flat(coarse: Quantized, fine: Quantized) -> Int[Array, "b t"]:
    return jnp.concatenate([each.indices.reshape(len(each.indices), -1) for each in (coarse, fine)], 1)


build = VQVAE2.from_values
