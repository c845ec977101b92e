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
        kernel_init: of both kernels.
        bias_init: of both biases.
    """

    mlp_dim: int
    dtype: DTypeLike = jnp.float32
    dropout_rate: float = 0.0
    gelu: Literal["tanh", "exact"] = "tanh"
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    bias_init: nn.initializers.Initializer = nn.initializers.normal(1e-6)

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
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
        )
        width = x.shape[-1]
        x = checkpoint_name(dense(self.mlp_dim, name="fc1")(x), SAVED[1])
        # Computed again in the backward pass, which is cheaper than keeping its steps in memory.
        x = jax.checkpoint(functools.partial(nn.gelu, approximate=_GELU_IS_APPROXIMATE[self.gelu]))(x)
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        x = dense(width, name="fc2")(x)
        return nn.Dropout(self.dropout_rate)(x, deterministic=not train)


class SwiGLUBlock(nn.Module):
    """silu(gate(x)) * fc1(x), dropout, dense, dropout ("GLU variants improve Transformer", arXiv:2002.05202).

    Parameters, float32: `gate` and `fc1` with kernel [D, mlp_dim], `fc2` with kernel [mlp_dim, D], and their biases.

    Attributes:
        mlp_dim: width of the hidden layer; DINOv2 takes 2/3 of what it would be without the gate, rounded up to a
            multiple of 8.
        dtype: dtype of the computation and of the result.
        dropout_rate: used in training (rng collection "dropout").
    """

    mlp_dim: int
    dtype: DTypeLike = jnp.float32
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*b width"], *, train: bool) -> Float[Array, "*b width"]:
        """Applies the block to the last axis."""
        dense = functools.partial(
            nn.Dense,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=nn.initializers.normal(1e-6),
        )
        width = x.shape[-1]
        x = nn.silu(dense(self.mlp_dim, name="gate")(x)) * dense(self.mlp_dim, name="fc1")(x)
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        x = dense(width, name="fc2")(x)
        return nn.Dropout(self.dropout_rate)(x, deterministic=not train)


class EncoderBlock(nn.Module):
    """x + DropPath(Dropout(Attention(LN(x)))), then x + DropPath(MLP(LN(x))) (ViT, equations 2 and 3).

    With LayerScale ("Going deeper with image Transformers", arXiv:2103.17239, section 2.1) a learned vector multiplies
    each of the two branches.

    Parameters, float32: `norm1`, `attention`, `norm2`, `mlp`, and `layer_scale1` and `layer_scale2` [D]. Every layer of
    a model is the same module: what differs between layers, the rate of stochastic depth, is an argument of the call.

    Attributes:
        num_heads: attention heads.
        mlp_dim: hidden width of the MLP.
        dtype: dtype of the computation and of the residual stream; layer norm statistics and softmax are float32.
        dropout_rate: after the attention projection and inside the MLP.
        attention_dropout_rate: on the attention weights.
        gelu: see `MlpBlock`.
        layer_norm_epsilon: added to the variance.
        mlp: "gelu" is `MlpBlock`, "swiglu" `SwiGLUBlock`.
        layer_scale_init: initial value of LayerScale, None for none.
        qkv_bias: see `MultiHeadAttention`.
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
    mlp: Literal["gelu", "swiglu"] = "gelu"
    layer_scale_init: float | None = None
    qkv_bias: bool = True
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
            qkv_bias=self.qkv_bias,
            implementation=self.attention_implementation,
            sow_weights=self.sow_attention,
            name="attention",
        )(norm(name="norm1")(x), train=train)
        y = self._scaled("layer_scale1", nn.Dropout(self.dropout_rate)(y, deterministic=not train))
        x = x + (drop_path(y, drop_path_rate, self.make_rng("drop_path")) if drops_paths else y)
        x = checkpoint_name(x, SAVED[0])

        if self.mlp == "swiglu":
            mlp = SwiGLUBlock(self.mlp_dim, self.dtype, self.dropout_rate, name="mlp")
        elif self.mlp == "gelu":
            mlp = MlpBlock(self.mlp_dim, self.dtype, self.dropout_rate, self.gelu, name="mlp")
        else:
            raise UserError(f"There is no MLP '{self.mlp}'", nearest(self.mlp, ("gelu", "swiglu")))
        y = self._scaled("layer_scale2", mlp(norm(name="norm2")(x), train=train))
        return x + (drop_path(y, drop_path_rate, self.make_rng("drop_path")) if drops_paths else y)

    def _scaled(self, name: str, y: Float[Array, "b t width"]) -> Float[Array, "b t width"]:
        if self.layer_scale_init is None:
            return y
        init = nn.initializers.constant(self.layer_scale_init)
        return y * self.param(name, init, y.shape[-1:]).astype(self.dtype)
