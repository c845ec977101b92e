"""Pooling a sequence of tokens into one vector: by picking, averaging, or attention."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.nn.attention import Implementation, MultiHeadAttention
from vit_jax.nn.block import MlpBlock
from vit_jax.nn.norm import LayerNorm


def pool_tokens(
    tokens: Float[Array, "b t width"],
    pooling: Literal["token", "mean", "token_mean", "distilled"],
    num_prefix_tokens: int,
) -> Float[Array, "b f"] | Float[Array, "b 2 width"]:
    """The poolings without parameters, see `vit_jax.models.vit.ViT`; means are float32."""
    if pooling == "token":
        return tokens[:, 0]
    if pooling == "distilled":
        return tokens[:, :2]
    mean = tokens[:, num_prefix_tokens:].mean(axis=1, dtype=jnp.float32)
    return mean if pooling == "mean" else jnp.concatenate([tokens[:, 0].astype(jnp.float32), mean], axis=1)


class MAPHead(nn.Module):
    """Multi-head attention pooling: a learned probe attends to the tokens ("Scaling vision transformers").

    y = Attention(probe, x); the result is y + MLP(LN(y)). There is no dropout.
    Parameters, float32: `probe` [1, 1, D], `attention`, `norm`, `mlp`.

    Attributes:
        num_heads: attention heads.
        mlp_dim: hidden width of the MLP.
        dtype: dtype of the computation and of the result.
        gelu: see `MlpBlock`.
        layer_norm_epsilon: added to the variance.
        attention_implementation: see `attention`.
    """

    num_heads: int
    mlp_dim: int
    dtype: DTypeLike = jnp.float32
    gelu: Literal["tanh", "exact"] = "tanh"
    layer_norm_epsilon: float = 1e-6
    attention_implementation: Implementation = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b t width"]) -> Float[Array, "b width"]:
        batch, _, width = x.shape
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width))
        probe = jnp.broadcast_to(probe.astype(self.dtype), (batch, 1, width))
        x = MultiHeadAttention(
            num_heads=self.num_heads, dtype=self.dtype, implementation=self.attention_implementation, name="attention"
        )(probe, x, train=False)
        norm = LayerNorm(self.layer_norm_epsilon, self.dtype, name="norm")
        x = x + MlpBlock(self.mlp_dim, self.dtype, gelu=self.gelu, name="mlp")(norm(x), train=False)
        return x[:, 0]
