"""Pixels as the numbers of the nearest colours of a palette: the tokens of iGPT (Chen et al., "Generative pretraining
from pixels", ICML 2020, section 3.2), where 512 colours stand for 2^24, nine bits a pixel.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer
from vit_jax.ranges import Count


def even_palette(colors: int) -> Float[Array, "k 3"]:
    """So many colours in -1..1, evenly spread over those of an even cube, from black to white."""
    levels = math.ceil(round(colors ** (1 / 3), 9))
    side = jnp.linspace(-1, 1, levels) if levels > 1 else jnp.zeros(1)
    cube = jnp.stack(jnp.meshgrid(side, side, side, indexing="ij"), axis=-1).reshape(-1, 3)
    return cube[jnp.linspace(0, len(cube) - 1, colors).round().astype(int)]


class ColorPalette(ImageTokenizer):
    """A token for each pixel. Parameters, float32: `palette` [K, 3] in -1..1, an even one at first.

    Attributes:
        colors: K.
    """

    colors: int = 512

    @property
    def vocab_size(self) -> int:
        return self.colors

    @property
    def latent_width(self) -> int:
        return 3

    def setup(self):
        def even(rng: PRNGKeyArray) -> Float[Array, "k 3"]:
            del rng
            return even_palette(self.colors)

        self.palette = self.param("palette", even)

    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> dict[str, Array]:
        """ "reconstruction" [B, H, W, 3], whose gradient goes to the palette, and "indices" [B, H W]."""
        del train
        indices = self.tokenize(images)
        return {"reconstruction": self.palette[indices].reshape(images.shape), "indices": indices}

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        return (tuple(image_size),)

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        return images

    def decode(self, latents: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        return latents

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b t"]:
        # |x - c|^2 without |x|^2, which is the same for all colours: no array of [pixels, colours, 3].
        pixels = images.astype(jnp.float32).reshape(len(images), -1, 3)
        squares = jnp.square(self.palette).sum(-1) / 2
        near = jnp.einsum("btc,kc->btk", pixels, self.palette, precision="highest")
        return jnp.argmin(squares - near, axis=-1).astype(jnp.int32)

    def embed(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "b h w 3"]:
        [grid] = grids
        return self.palette[tokens].reshape(len(tokens), *grid, 3)


def build(*, colors: Count = 512) -> ColorPalette:
    """A palette of so many colours."""
    return ColorPalette(colors)
