"""A plain Vision Transformer as one writes it with Flax's own layers: what our train step is timed against.

Nothing here is tuned and nothing is held back: `nn.Conv` for the patches, `nn.MultiHeadDotProductAttention`, layer
norms and initial values as they come. Sizes, dtype, loss and optimizer are those of ours.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    num_heads: int
    mlp_dim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t width"]) -> Float[Array, "b t width"]:
        dtype = self.dtype
        y = nn.LayerNorm(epsilon=1e-6, dtype=dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.num_heads, deterministic=True, dtype=dtype)(y)
        y = nn.LayerNorm(epsilon=1e-6, dtype=dtype)(x)
        y = nn.gelu(nn.Dense(self.mlp_dim, dtype=dtype)(y))
        return x + nn.Dense(x.shape[-1], dtype=dtype)(y)


class PlainViT(nn.Module):
    """Images to logits; parameters are float32, what is computed is of `dtype`."""

    num_classes: int
    patch_size: int
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b classes"]:
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.width, patch, strides=patch, padding="VALID", dtype=self.dtype)(images)
        x = x.reshape(x.shape[0], -1, self.width)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(cls.astype(x.dtype), (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(x.dtype)
        for _ in range(self.depth):
            x = Block(self.num_heads, self.mlp_dim, self.dtype)(x)
        x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)(x)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, dtype=self.dtype)(x[:, 0])


def softmax_loss(logits: Float[Array, "b classes"], labels: Array) -> Float[Array, ""]:
    """Mean softmax cross-entropy, in nats."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def sigmoid_loss(logits: Float[Array, "b classes"], labels: Array) -> Float[Array, ""]:
    """Mean over images of the binary cross-entropies of all classes, in nats."""
    logits = logits.astype(jnp.float32)
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    return -(targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits)).sum(-1).mean()
