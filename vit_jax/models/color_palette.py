"""Pixels as the numbers of the nearest colours of a palette: the tokens of iGPT (Chen et al., "Generative pretraining
from pixels", ICML 2020, section 3.2), where 512 colours stand for 2^24, nine bits a pixel.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer
from vit_jax.nn.vq import nearest
from vit_jax.ranges import Count


def even_palette(colors: int) -> Float32[np.ndarray, "k 3"]:
    """So many colours in -1..1, evenly spread over those of an even cube, from black to white."""
    levels = math.ceil(round(colors ** (1 / 3), 9))
    side = np.linspace(-1, 1, levels, dtype=np.float32) if levels > 1 else np.zeros(1, np.float32)
    cube = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1).reshape(-1, 3)
    return cube[np.linspace(0, len(cube) - 1, colors).round().astype(int)]


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
            return jnp.asarray(even_palette(self.colors))

        self.palette = self.param("palette", even)

    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> dict[str, Array]:
        """Beside "reconstruction" [B, H, W, 3], whose squared error is what k-means minimises, what the task `vqvae`
        reads: "indices" [B, H W], "latents", which are the images, and a "quantizer_loss" of zero."""
        del train
        indices = self.tokenize(images)
        found = self.palette[indices].reshape(images.shape)
        return {"reconstruction": found, "indices": indices, "latents": images, "quantizer_loss": jnp.float32(0)}

    def grids(self, image_size: Grid) -> tuple[Grid, ...]:
        return (tuple(image_size),)

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        return images

    def decode(self, latents: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        return latents

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b t"]:
        return nearest(images.reshape(len(images), -1, 3), self.palette)

    def embed(self, tokens: Int[Array, "b t"], grids: tuple[Grid, ...]) -> Float[Array, "b h w 3"]:
        [grid] = grids
        return self.palette[tokens].reshape(len(tokens), *grid, 3)


def build(*, colors: Count = 512) -> ColorPalette:
    """A palette of so many colours."""
    return ColorPalette(colors)
