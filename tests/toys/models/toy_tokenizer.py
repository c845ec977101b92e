"""Images as their 2x2 means in a linear map: the nearest of some codes, or a Gaussian around them."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.nn.image_tokenizer import ImageTokenizer
from vit_jax.nn.vq import nearest


class Continuous(ImageTokenizer):
    latent_width: int = 2
    vocab_size = None

    def setup(self):
        self.encoder, self.decoder = nn.Dense(2 * self.latent_width), nn.Dense(12)

    def __call__(self, images, *, train=False):
        latents = self.encode(images)
        return {"reconstruction": self.decode(latents), "latents": latents, "moments": self.moments(images)}

    def grids(self, image_size):
        return ((image_size[0] // 2, image_size[1] // 2),)

    def moments(self, images):
        b, h, w, _ = images.shape
        mean, spread = jnp.split(self.encoder(images.reshape(b, h // 2, 2, w // 2, 2, 3).mean((2, 4))), 2, axis=-1)
        return jnp.concatenate([mean, -3 + jnp.tanh(spread)], -1)

    def encode(self, images):
        return jnp.split(self.moments(images), 2, axis=-1)[0]

    def decode(self, latents):
        b, h, w, _ = latents.shape
        return self.decoder(latents).reshape(b, h, w, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, 3)


class Discrete(Continuous):
    vocab_size: int = 8

    def setup(self):
        super().setup()
        self.codes = self.param("codes", nn.initializers.normal(1.0), (self.vocab_size, self.latent_width))

    def __call__(self, images, *, train=False):
        tokens = self.tokenize(images)
        return {"reconstruction": self.detokenize(tokens, self.grids(images.shape[1:3])), "indices": tokens}

    def tokenize(self, images):
        return nearest(self.encode(images), jax.lax.stop_gradient(self.codes)).reshape(len(images), -1)

    def embed(self, tokens, grids):
        return self.codes[tokens].reshape(len(tokens), *grids[0], -1)


def build(*, codes: int | None = 8):
    return Continuous() if codes is None else Discrete(vocab_size=codes)
