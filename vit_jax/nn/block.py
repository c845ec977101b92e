"""The pre-norm Transformer encoder block, its MLP, and stochastic depth."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn import attention
from vit_jax.nn.attention import Implementation, MultiHeadAttention
from vit_jax.nn.norm import LayerNorm

# Under these names a rematerialisation policy finds a block's results of products with weight matrices; what the block
# computes from them, layer norms, softmax, GELU and dropout, costs little to compute again.
SAVED = ("residual", "hidden", *attention.SAVED)

_GELU_IS_APPROXIMATE = {"tanh": True, "exact": False}


def drop_path(x: Float[Array, "b ..."], rate: float | Float[Array, ""], rng: PRNGKeyArray) -> Float[Array, "b ..."]:
    """Stochastic depth: zeroes whole samples with probability `rate` and divides the others by `1 - rate`.

    Args:
        x: the output of a residual branch, batch first.
        rate: in [0, 1); may be traced, so that one scanned block serves layers with different rates.
        rng: the key for dropping.
    """
    keep_rate = 1.0 - rate
    keep = jax.random.bernoulli(rng, keep_rate, x.shape[:1] + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / keep_rate, 0.0).astype(x.dtype)


class MlpBlock(nn.Module):
    """Dense, GELU, dropout, dense, dropout.

    Parameters, float32: `fc1` with kernel [D, mlp_dim], `fc2` with kernel [mlp_dim, D], and their biases.

    Attributes:
        mlp_dim: width of the hidden layer.
        dtype: dtype of the computation and of the result.
        dropout_rate: used in training (rng collection "dropout").
        gelu: "tanh" is the approximation that the original ViT uses, "exact" is that of most PyTorch code. They
            differ by up to 5e-4 per activation: weights want the one that they were trained with.
    """

    mlp_dim: int
    dtype: DTypeLike = jnp.float32
    dropout_rate: float = 0.0
    gelu: Literal["tanh", "exact"] = "tanh"

    @nn.compact
    def __call__(self, x: Float[Array, "*b width"], *, train: bool) -> Float[Array, "*b width"]:
        """Applies the block to the last axis.

        Raises:
            UserError: for an unknown `gelu`.
        """
        if self.gelu not in _GELU_IS_APPROXIMATE:
            raise UserError(f"There is no GELU '{self.gelu}'", nearest(self.gelu, _GELU_IS_APPROXIMATE))
        dense = functools.partial(
            nn.Dense,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=nn.initializers.normal(1e-6),
        )
        width = x.shape[-1]
        x = checkpoint_name(dense(self.mlp_dim, name="fc1")(x), SAVED[1])
        # Computed again in the backward pass, which is cheaper than keeping its steps in memory.
        x = jax.checkpoint(functools.partial(nn.gelu, approximate=_GELU_IS_APPROXIMATE[self.gelu]))(x)
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        x = dense(width, name="fc2")(x)
        return nn.Dropout(self.dropout_rate)(x, deterministic=not train)


class EncoderBlock(nn.Module):
    """x + DropPath(Dropout(Attention(LN(x)))), then x + DropPath(MLP(LN(x))) (ViT, equations 2 and 3).

    Parameters, float32: `norm1`, `attention`, `norm2`, `mlp`. Every layer of a model is the same module: what differs
    between layers, the rate of stochastic depth, is an argument of the call.

    Attributes:
        num_heads: attention heads.
        mlp_dim: hidden width of the MLP.
        dtype: dtype of the computation and of the residual stream; layer norm statistics and softmax are float32.
        dropout_rate: after the attention projection and inside the MLP.
        attention_dropout_rate: on the attention weights.
        gelu: see `MlpBlock`.
        layer_norm_epsilon: added to the variance.
        attention_implementation: see `attention`.
        sow_attention: sow the attention weights, see `MultiHeadAttention`.
    """

    num_heads: int
    mlp_dim: int
    dtype: DTypeLike = jnp.float32
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    gelu: Literal["tanh", "exact"] = "tanh"
    layer_norm_epsilon: float = 1e-6
    attention_implementation: Implementation = "auto"
    sow_attention: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t width"], drop_path_rate: float | Float[Array, ""] = 0.0, train: bool = False
    ) -> Float[Array, "b t width"]:
        """Applies the block; `drop_path_rate` may be traced and is used in training (rng collection "drop_path")."""
        norm = functools.partial(LayerNorm, self.layer_norm_epsilon, self.dtype)
        # A rate of 0 that is known while tracing costs nothing and asks for no rng.
        drops_paths = train and not (isinstance(drop_path_rate, int | float) and drop_path_rate == 0)

        y = MultiHeadAttention(
            num_heads=self.num_heads,
            dtype=self.dtype,
            dropout_rate=self.attention_dropout_rate,
            implementation=self.attention_implementation,
            sow_weights=self.sow_attention,
            name="attention",
        )(norm(name="norm1")(x), train=train)
        y = nn.Dropout(self.dropout_rate)(y, deterministic=not train)
        x = x + (drop_path(y, drop_path_rate, self.make_rng("drop_path")) if drops_paths else y)
        x = checkpoint_name(x, SAVED[0])

        y = MlpBlock(self.mlp_dim, self.dtype, self.dropout_rate, self.gelu, name="mlp")(
            norm(name="norm2")(x), train=train
        )
        return x + (drop_path(y, drop_path_rate, self.make_rng("drop_path")) if drops_paths else y)
