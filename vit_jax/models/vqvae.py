"""The VQ-VAE: images as maps of codes ("Neural discrete representation learning", van den Oord et al.,
arXiv:1711.00937), with one code a place or, of a residual quantiser, several."""

from typing import Annotated, Any, Literal, Self

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer, grid_of
from vit_jax.nn.images import check_images
from vit_jax.nn.strided_coder import StridedDecoder, StridedEncoder, halvings
from vit_jax.nn.vq import Codebook, ResidualQuantizer, VectorQuantizer
from vit_jax.ranges import Count, Decay, Natural, NonNegative, Range


class VQVAE(ImageTokenizer):
    """See `VQVAE.from_values`.

    Parameters: `encoder`, `quantizer`, `decoder`. Codes that learn by moving averages are in the collection
    "codebooks".

    Attributes:
        encoder: images to latents.
        quantizer: latents to codes.
        decoder: codes to images.
    """

    encoder: StridedEncoder
    quantizer: VectorQuantizer | ResidualQuantizer
    decoder: StridedDecoder

    @property
    def latent_width(self) -> int:
        return self.encoder.out

    @property
    def vocab_size(self) -> int:
        return self._codebooks[0].size

    @property
    def one_codebook(self) -> bool:
        return len(self._codebooks) == 1

    @property
    def codes_per_place(self) -> int:
        """More than one with a residual quantiser, whose depths are maps of their own."""
        return self.quantizer.depth if isinstance(self.quantizer, ResidualQuantizer) else 1

    @property
    def _codebooks(self) -> tuple[Codebook, ...]:
        quantizer = self.quantizer
        return quantizer.codebooks if isinstance(quantizer, ResidualQuantizer) else (quantizer.codebook,)

    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> dict[str, Array]:
        """Encodes, quantises and decodes.

        Returns:
            "reconstruction" [B, H, W, 3]; "latents" [B, h, w, D] before they are quantised; "indices" int32 [B, T], see
            `tokenize`; "quantizer_loss", a scalar.
        """
        latents = self.encode(images)
        found = self.quantizer(latents, train)
        return {
            "reconstruction": self.decoder(found.latents),
            "latents": latents,
            "indices": self._flat(found.indices),
            "quantizer_loss": found.loss,
        }

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        return (grid_of(image_size, self.encoder.factor),) * self.codes_per_place

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        check_images(images)
        return self.encoder(images)

    def decode(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        return self.decoder(latents)

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b t"]:
        return self._flat(self.quantizer(self.encode(images)).indices)

    def embed(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "b gh gw d"]:
        """See `ImageTokenizer`; of the first grids alone it is what the first codes of each place stand for."""
        maps = tokens.reshape(len(tokens), len(grids), *grids[0])
        if isinstance(self.quantizer, VectorQuantizer):
            return self.quantizer.embed(maps[:, 0])
        return self.quantizer.embed(jnp.moveaxis(maps, 1, -1))

    def flops(self, image_size: Grid) -> float:
        """Those of convolutions and distances."""
        grid, width = self.grids(image_size)[0], self.latent_width
        distances = 2.0 * grid[0] * grid[1] * width * self.vocab_size * self.codes_per_place
        return self.encoder.flops(grid) + distances + self.decoder.flops(grid, width)

    def _flat(self, indices: Int[Array, "b gh gw *depth"]) -> Int[Array, "b t"]:
        """One map after the other."""
        if indices.ndim == 4:
            indices = jnp.moveaxis(indices, -1, 1)
        return indices.reshape(len(indices), -1)

    @classmethod
    def from_values(
        cls,
        *,
        width: Count = 256,
        hidden: Count | None = None,
        depth: Natural = 2,
        factor: Annotated[int, Range(2)] = 4,
        latent_width: Count = 64,
        vocab_size: Count = 512,
        codes_per_place: Annotated[int, Range(1, 8)] = 1,
        shared_codebook: bool = True,
        decay: Decay | None = None,
        restart_below: NonNegative = 0.0,
        cosine: bool = False,
        beta: NonNegative = 0.25,
        legacy: bool = False,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """A VQ-VAE from values that JSON can hold; by default the paper's for images of 128x128 pixels, with codes of a
        width of 64.

        Args:
            width: channels of the convolutions, see `StridedEncoder`, like `hidden` (the same by default), `depth` and
                `factor`.
            latent_width: of a code.
            vocab_size: number of codes.
            codes_per_place: see `ResidualQuantizer.depth`; with 1 it is a VQ-VAE.
            shared_codebook: whether several codes of a place come from one codebook.
            decay: see `Codebook`, like `restart_below` and `cosine`.
            beta: see `vit_jax.nn.vq.codebook_loss`, like `legacy`.
            dtype: compute dtype by name; parameters, latents and images are always float32.

        Raises:
            UserError: for values that do not go together.
        """
        halvings(factor)
        hidden, kind = hidden or width, compute_dtype(dtype)
        book = Codebook(vocab_size, latent_width, decay, restart_below, cosine)
        return cls(
            StridedEncoder(latent_width, width, hidden, depth, factor, kind),
            quantizer_of(book, codes_per_place, shared_codebook, beta=beta, legacy=legacy),
            StridedDecoder(3, width, hidden, depth, factor, kind),
        )


def quantizer_of(
    codebook: Codebook, codes_per_place: int, shared: bool, **weights: Any
) -> VectorQuantizer | ResidualQuantizer:
    """A quantiser with one code or several for each latent.

    Args:
        codebook: of the codes, or the pattern of one for each of several.
        shared: see `VQVAE.from_values`.
        weights: of the losses.
    """
    if codes_per_place == 1:
        return VectorQuantizer(codebook, **weights)
    count = 1 if shared else codes_per_place
    return ResidualQuantizer(tuple(codebook.clone() for _ in range(count)), codes_per_place, **weights)


build = VQVAE.from_values
