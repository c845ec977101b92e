"""Scaled dot-product attention on one of three implementations, and the multi-head layer around it."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import nearest

Implementation = Literal["auto", "explicit", "xla", "cudnn"]

_IMPLEMENTATIONS = ("auto", "explicit", "xla", "cudnn")


def attention(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s h d"],
    v: Float[Array, "b s h d"],
    *,
    bias: Float[Array, "#b #h #t #s"] | None = None,
    mask: Bool[Array, "#b #h #t #s"] | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: PRNGKeyArray | None = None,
    implementation: Implementation = "auto",
    return_weights: bool = False,
) -> Float[Array, "b t h d"] | tuple[Float[Array, "b t h d"], Float[Array, "b h t s"]]:
    """softmax(q k^T / sqrt(d) + bias) v, with the softmax in float32 ("Attention is all you need", section 3.2.1).

    Args:
        q: queries; their dtype is the dtype of the result.
        k: keys.
        v: values.
        bias: added to the scaled logits.
        mask: True where a query may attend to a key.
        dropout_rate: fraction of the attention weights that is dropped, 0 for none.
        dropout_rng: the key for dropping; needed when the rate is above 0.
        implementation: "explicit" writes out the weights; "xla" and "cudnn" are those of
            `jax.nn.dot_product_attention`. "auto" is explicit on a CPU and wherever dropout or the weights are asked
            for; otherwise cudnn where it can run (a GPU, half precision, a fitting head width, no bias or mask), and
            xla for the rest.
        return_weights: also return the float32 weights, before dropout.

    Raises:
        UserError: when the implementation that was asked for cannot do what was asked.
    """
    if implementation not in _IMPLEMENTATIONS:
        raise UserError(f"There is no attention '{implementation}'", nearest(implementation, _IMPLEMENTATIONS))
    needs_weights = dropout_rate > 0 or return_weights
    on_gpu = jax.default_backend() == "gpu"
    fits_cudnn = on_gpu and q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128

    if implementation in ("xla", "cudnn") and needs_weights:
        wanted = "return its weights" if return_weights else "drop attention weights"
        raise UserError(f"The attention '{implementation}' cannot {wanted}", "Use 'explicit' or 'auto'")
    if implementation == "cudnn" and not fits_cudnn:
        raise UserError(
            f"The attention 'cudnn' cannot run {q.dtype} heads of width {q.shape[-1]} on {jax.default_backend()}",
            "It needs a GPU, bfloat16 or float16, and a head width up to 128 that 8 divides; 'auto' chooses for you",
        )

    if implementation == "auto":
        if needs_weights or jax.default_backend() == "cpu":
            implementation = "explicit"
        else:
            # A mask reaches cuDNN as a bias, and with a bias it demands even sequence lengths in training.
            implementation = "cudnn" if fits_cudnn and bias is None and mask is None else "xla"
    if implementation != "explicit":
        return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, implementation=implementation)

    # Heads first makes every product below a batch of plain matrix products; the scale costs less on q than on logits.
    q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    logits = jnp.matmul(q, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)
    if mask is not None:
        # Finite, so that a query which may attend to nothing gets uniform weights and not NaN.
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    # The softmax's division comes after the product with v, where there is less to divide. Its maximum cancels out.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    used = weights
    if dropout_rate > 0:
        keep = jax.random.bernoulli(dropout_rng, 1.0 - dropout_rate, weights.shape)
        used = jnp.where(keep, weights / (1.0 - dropout_rate), 0.0)
    out = jnp.matmul(used.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
    out = out.astype(v.dtype).swapaxes(1, 2)
    return (out, weights / total) if return_weights else out


class MultiHeadAttention(nn.Module):
    """Self- or cross-attention.

    Parameters, float32: `query`, `key`, `value` with kernel [D, H, D/H] and bias [H, D/H]; `out` with kernel
    [H, D/H, D] and bias [D].

    Attributes:
        num_heads: H.
        dtype: dtype of the computation and of the result.
        dropout_rate: fraction of attention weights dropped in training (rng collection "dropout").
        kernel_init: initializer of the four kernels.
        qkv_bias: whether query, key and value have biases; the output projection has one in any case.
        implementation: see `attention`.
        sow_weights: sow the weights, float32 [B, H, T, S], as "attention_weights" in the collection "intermediates".
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32
    dropout_rate: float = 0.0
    kernel_init: Callable = nn.initializers.xavier_uniform()
    qkv_bias: bool = True
    implementation: Implementation = "auto"
    sow_weights: bool = False

    @nn.compact
    def __call__(
        self, x_q: Float[Array, "b t width"], x_kv: Float[Array, "b s width"] | None = None, *, train: bool
    ) -> Float[Array, "b t width"]:
        """Attends from `x_q` to `x_kv`, or to itself.

        Raises:
            UserError: when the width does not divide into the heads.
        """
        width = x_q.shape[-1]
        if width % self.num_heads:
            raise UserError(f"A width of {width} does not divide into {self.num_heads} heads", "Change one of the two")
        x_kv = x_q if x_kv is None else x_kv

        def project(name: str, features: int | tuple[int, int], axis: int | tuple[int, int] = -1) -> nn.DenseGeneral:
            return nn.DenseGeneral(
                features,
                axis=axis,
                use_bias=self.qkv_bias or name == "out",
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                name=name,
            )

        heads = (self.num_heads, width // self.num_heads)
        q, k, v = project("query", heads)(x_q), project("key", heads)(x_kv), project("value", heads)(x_kv)
        dropout_rate = self.dropout_rate if train else 0.0
        out = attention(
            q,
            k,
            v,
            dropout_rate=dropout_rate,
            dropout_rng=self.make_rng("dropout") if dropout_rate > 0 else None,
            implementation=self.implementation,
            return_weights=self.sow_weights,
        )
        if self.sow_weights:
            out, weights = out
            self.sow("intermediates", "attention_weights", weights)
        return project("out", width, axis=(-2, -1))(out)
