"""Scaled dot-product attention on one of three implementations, and the multi-head layer around it."""

import contextlib
import contextvars
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.recomputed_attention import recomputed_attention

Implementation = Literal["auto", "explicit", "recomputed", "xla", "cudnn"]

# The platform that is traced for, where that is not the one that runs the trace.
_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)

_IMPLEMENTATIONS = ("auto", "explicit", "recomputed", "xla", "cudnn")


@contextlib.contextmanager
def computing_on(platform: str) -> Iterator[None]:
    """Around tracing: what is traced will run on this platform ("cpu", "gpu", "tpu"), wherever it is traced."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


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
        implementation: "explicit" writes out the weights; "recomputed" computes them again in the backward pass, see
            `recomputed_attention`; "xla" and "cudnn" are those of `jax.nn.dot_product_attention`. "auto" is explicit on
            a CPU and wherever dropout or the weights are asked for; otherwise, without bias or mask, cudnn where it can
            run (a GPU, half precision, a fitting head width) and recomputed on a TPU; and xla for the rest.
        return_weights: also return the float32 weights, before dropout.

    Raises:
        UserError: when the implementation that was asked for cannot do what was asked.
    """
    if implementation not in _IMPLEMENTATIONS:
        raise UserError(f"There is no attention '{implementation}'", nearest(implementation, _IMPLEMENTATIONS))
    needs_weights = dropout_rate > 0 or return_weights
    platform = _platform.get() or jax.default_backend()
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    fits_cudnn = platform == "gpu" and half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128

    if implementation in ("recomputed", "xla", "cudnn") and needs_weights:
        wanted = "return its weights" if return_weights else "drop attention weights"
        raise UserError(f"The attention '{implementation}' cannot {wanted}", "Use 'explicit' or 'auto'")
    if implementation == "recomputed" and not (bias is None and mask is None):
        raise UserError("The attention 'recomputed' takes no bias and no mask", "Use 'explicit', 'xla' or 'auto'")
    if implementation == "cudnn" and not fits_cudnn:
        raise UserError(
            f"The attention 'cudnn' cannot run {q.dtype} heads of width {q.shape[-1]} on {platform}",
            "It needs a GPU, bfloat16 or float16, and a head width up to 128 that 8 divides; 'auto' chooses for you",
        )

    if implementation == "auto":
        plain = bias is None and mask is None
        if needs_weights or platform == "cpu":
            implementation = "explicit"
        elif platform == "tpu" and plain:
            implementation = "recomputed"
        else:
            # A mask reaches cuDNN as a bias, and with a bias it demands even sequence lengths in training.
            implementation = "cudnn" if fits_cudnn and plain and cudnn_works(str(q.dtype), q.shape[-1]) else "xla"
    if implementation == "recomputed":
        return recomputed_attention(q, k, v)
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


@functools.cache
def cudnn_works(dtype: str, width: int) -> bool:
    """Whether cuDNN's attention runs here, forward and backward: tried once; where it does not, stderr says why."""
    x = np.ones((1, 8, 2, width), dtype)
    loss = lambda q: jax.nn.dot_product_attention(q, q, q, implementation="cudnn").astype(jnp.float32).sum()  # noqa: E731
    try:
        # Compiled ahead, because this may be asked for while something else is traced.
        gradient = jax.jit(jax.grad(loss)).lower(jax.ShapeDtypeStruct(x.shape, x.dtype)).compile()(x)
        if np.isfinite(np.asarray(gradient, np.float32)).all():
            return True
        reason = "its gradient is not finite"
    except Exception as error:  # whatever it is that CUDA, cuDNN or their bindings lack
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    print(f"cuDNN's attention does not run here ({reason}); using XLA's, which is slower.", file=sys.stderr)
    return False


class MultiHeadAttention(nn.Module):
    """Self- or cross-attention with biases on all four projections.

    Parameters, float32: `query`, `key`, `value` with kernel [D, H, D/H] and bias [H, D/H]; `out` with kernel
    [H, D/H, D] and bias [D].

    Attributes:
        num_heads: H.
        dtype: dtype of the computation and of the result.
        dropout_rate: fraction of attention weights dropped in training (rng collection "dropout").
        kernel_init: initializer of the four kernels.
        implementation: see `attention`.
        sow_weights: sow the weights, float32 [B, H, T, S], as "attention_weights" in the collection "intermediates".
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32
    dropout_rate: float = 0.0
    kernel_init: Callable = nn.initializers.xavier_uniform()
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
            return nn.DenseGeneral(features, axis=axis, dtype=self.dtype, kernel_init=self.kernel_init, name=name)

        heads = (self.num_heads, width // self.num_heads)
        q, k, v = (checkpoint_name(x, "attention_inputs") for x in (project("query", heads)(x_q), project("key", heads)(x_kv), project("value", heads)(x_kv)))
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
