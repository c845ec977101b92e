"""A stand-in for SAM that compiles in a moment: its answers depend on all that it is asked."""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn

from vit_jax.checkpoints.load import Loaded
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.nn.prompts import PADDING
from vit_jax.tasks.sam import SegmentAnything

SIDE = 16


class Answering(nn.Module):
    """Answers depend on the image, on all prompts that are no padding, and on the logits before."""

    stride: int = 8

    def setup(self):
        self.encoder, self.decoder = nn.Dense(3), nn.Dense(4)
        self.quality = self.param("quality", nn.initializers.normal(), (4,))

    def __call__(self, images, train=False):
        embedding = self.embed(images)
        self.predict(embedding, jnp.zeros((len(images), 1, 1, 2)), jnp.ones((len(images), 1, 1), int),
                            jnp.zeros((len(images), 1, SIDE, SIDE)), jnp.zeros((len(images), 1), bool))  # fmt: skip
        return {"features": embedding.mean((1, 2))}

    def embed(self, images, train=False):
        return self.encoder(images[:, ::8, ::8])

    def predict(self, embedding, points, labels, prior, has_prior, text=None, has_text=None):
        fields = jnp.repeat(jnp.repeat(self.decoder(embedding), 4, 1), 4, 2).transpose(0, 3, 1, 2)[:, None]
        axis = (jnp.arange(SIDE) + 0.5) * 2 - 0.5
        near = jnp.exp(-jnp.square(points[..., :, None] - axis).reshape(*points.shape, SIDE) / 40)
        weight = jnp.where(labels == PADDING, 0.0, 2.0 * labels - 1.5)
        drawn = jnp.einsum("bqn,bqny,bqnx->bqyx", weight, near[..., 1, :], near[..., 0, :])
        logits = fields + (drawn + 0.3 * jnp.where(has_prior[..., None, None], prior, 0))[:, :, None]
        if text is not None:
            logits = logits + jnp.where(has_text, text.sum(-1), 0)[..., None, None, None]
        return logits, jax.nn.sigmoid(logits.mean((-2, -1)) + self.quality)


def answering(preprocess: Preprocess | None = None, **settings) -> Loaded:
    """What `vit_jax.load` would give of it, with random parameters."""
    task = SegmentAnything(Answering(), {}, **{"targets": 2, **settings})
    shapes = jax.eval_shape(task.init, jax.random.key(0), {"image": jnp.zeros((1, 32, 32, 3))})
    rng = np.random.default_rng(5)
    variables = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), shapes)
    fields = build_fields({"image": {"name": "image"}}, Context(preprocess or Preprocess((32, 32)), ()))
    return Loaded(epath.Path("x"), task, variables, fields, {"labels": []})
