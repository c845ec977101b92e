"""Pooling a sequence of tokens into one vector: by picking, averaging, or attention."""

import dataclasses
import functools
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Shaped

from vit_jax.nn.attention import attention
from vit_jax.nn.block import mlp_of
from vit_jax.nn.multi_head import MultiHeadAttention
from vit_jax.nn.norm import NORMS
from vit_jax.nn.posemb import check_grid
from vit_jax.nn.products import product
from vit_jax.nn.style import BIASES, BlockStyle, Execution


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


def mean_of_tokens(
    tokens: Float[Array, "b t width"], token_mask: Shaped[Array, "b t"] | None
) -> Float[Array, "b width"]:
    """The mean of the tokens that are no padding, in float32."""
    tokens = tokens.astype(jnp.float32)
    if token_mask is None:
        return tokens.mean(axis=1)
    there = token_mask.astype(jnp.float32)[..., None]
    return (tokens * there).sum(axis=1) / jnp.maximum(there.sum(axis=1), 1)


class MAPHead(nn.Module):
    """Multi-head attention pooling: a learned probe attends to the tokens ("Scaling vision transformers").

    y = Attention(probe, x); the result is y + MLP(norm(y)). There is no dropout.
    Parameters, float32: `probe` [1, 1, D], `attention`, `norm`, `mlp`.

    Attributes:
        style: heads, MLP and norm; the rest of it is a block's.
        execution: how it runs.
    """

    style: BlockStyle
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t width"], mask: Bool[Array, "b 1 1 t"] | None = None
    ) -> Float[Array, "b width"]:
        """Pools the tokens, of which `mask` says the ones to attend to; None for all."""
        batch, _, width = x.shape
        dtype = self.execution.dtype
        # The blocks' biases, gates and positions are theirs: the head is big_vision's whatever they have.
        style = dataclasses.replace(
            self.style, biases=BIASES, qk_norm="none", logit_scale=None, rotary="none", dropout_rate=0.0,
            attention_dropout_rate=0.0, gated=False,
            activation="gelu_tanh" if self.style.gated else self.style.activation,
        )  # fmt: skip
        execution = dataclasses.replace(self.execution, sow_attention=False)
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width))
        probe = jnp.broadcast_to(probe.astype(dtype), (batch, 1, width))
        x, _ = MultiHeadAttention(style, execution, name="attention")(probe, x, train=False, mask=mask)
        norm = NORMS[style.norm_kind](style.norm_epsilon, dtype, name="norm")
        x = x + mlp_of(style, execution, "mlp")(norm(x), train=False)
        return x[:, 0]


class MeanQueryPool(nn.Module):
    """Multi-head attention pooling of a map: the mean of all places asks them and itself (CLIP's ResNets,
    arXiv:2103.00020, section 2.4).

    Parameters, float32: `pos_embedding` [gh, gw, C] of the places and `mean_pos_embedding` [1, 1, C]; `query`, `key`
    and `value` with kernel [C, H, d] and bias [H, d]; `out` with kernel [H, d, D] and bias [D].

    Attributes:
        features: D, what comes out.
        num_heads: H, which divides C.
        dtype: dtype of the computation.
    """

    features: int
    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Pools a map.

        Raises:
            UserError: when the parameters hold positions of another grid.
        """
        batch, *grid, channels = x.shape
        if self.has_variable("params", "pos_embedding"):
            check_grid(tuple(grid), self.get_variable("params", "pos_embedding").shape[:2])
        normal = nn.initializers.normal(channels**-0.5)
        places = self.param("pos_embedding", normal, (*grid, channels))
        of_mean = self.param("mean_pos_embedding", normal, (1, 1, channels))
        x = x.astype(self.dtype).reshape(batch, -1, channels)
        mean = x.mean(axis=1, keepdims=True) + of_mean.astype(self.dtype)
        tokens = jnp.concatenate([mean, x + places.reshape(-1, channels).astype(self.dtype)], axis=1)
        heads = (self.num_heads, channels // self.num_heads)
        dense = functools.partial(nn.DenseGeneral, dtype=self.dtype, kernel_init=normal, dot_general=product)
        keys, values = (dense(heads, name=name)(tokens) for name in ("key", "value"))
        pooled = attention(dense(heads, name="query")(mean), keys, values)
        return dense(self.features, axis=(-2, -1), name="out")(pooled)[:, 0]
