"""What turns images into tokens and back: the face that every tokenizer of images shows to what generates tokens."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float, Int

from vit_jax.errors import UserError

Grid = tuple[int, int]


def grid_of(image_size: Grid, stride: int) -> Grid:
    """Rows and columns of the places of an image of (height, width), of so many pixels along a side each.

    Raises:
        UserError: for an image that does not divide into them.
    """
    height, width = image_size
    if any(side % stride or side < 1 for side in image_size):
        raise UserError(
            f"Images of {width}x{height} pixels do not divide into places of {stride}x{stride}",
            f"Use sides that are multiples of {stride}",
        )
    return height // stride, width // stride


class ImageTokenizer(nn.Module):
    """Images float [B, H, W, 3] in -1..1 to tokens and back. All methods are in evaluation, without randomness.

    Called, it gives "reconstruction" [B, H, W, 3] and what its training needs beside it: one that quantises "indices"
    [B, T] and what its loss is made of; one with a Gaussian "moments" [B, h, w, 2 D]. See each for the rest.

    One that quantises has all of the methods. Of one with continuous tokens, an autoencoder with a Gaussian in the
    middle, there are `encode` and `decode`, and `vocab_size` is None.
    """

    # Numbers of a place of the latents, and how many different tokens there are; fields or properties of the class.
    latent_width: ClassVar[int]
    vocab_size: ClassVar[int | None]
    # Whether a token means the same code in all maps.
    one_codebook: ClassVar[bool] = True
    # Of one that quantises: whether `decode_near` finds the codes of any latents.
    finds_codes: ClassVar[bool] = False

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        """Rows and columns of the maps of tokens of an image of (height, width): one map, or several from coarse to
        fine, whose tokens stand one map after the other, each in the order of reading.

        Raises:
            UserError: for an image that does not divide into places.
        """
        raise NotImplementedError

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        """Latents before they are quantised, or the mean of their distribution, in the scale in which others generate
        them."""
        raise NotImplementedError

    def decode(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """Images of latents; values may leave -1..1 a little."""
        raise NotImplementedError

    def decode_near(self, latents: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """Images of latents that something else generated as `encode` gives them: one that quantises takes the codes
        next to them (latent diffusion, arXiv:2112.10752, section 3.1)."""
        return self.decode(latents)

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b t"]:
        """Tokens, below `vocab_size`."""
        raise NotImplementedError

    def embed(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "b gh gw d"]:
        """The quantised latents that tokens stand for, those of `encode` but for what quantising lost.

        Args:
            grids: of the tokens, see `grids`.
        """
        raise NotImplementedError

    def detokenize(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "b h w 3"]:
        """Images of tokens."""
        return self.decode(self.embed(tokens, grids))
