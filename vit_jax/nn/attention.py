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
from vit_jax.nn.recomputed_attention import SAVED as SAVED_WITHIN
from vit_jax.nn.recomputed_attention import recomputed_attention, recomputed_self_attention

# Under these names a rematerialisation policy finds what a layer's backward pass reads.
SAVED = ("attention_inputs", *SAVED_WITHIN)

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


def chosen(
    implementation: Implementation, dtype: DTypeLike, width: int, *, plain: bool = True, needs_weights: bool = False
) -> Implementation:
    """What "auto" comes to, or the implementation itself where it can do what is asked; see `attention`.

    Args:
        dtype: of the queries.
        width: of a head.
        plain: there is neither bias nor mask.
        needs_weights: for dropping some of them, or to return them.

    Raises:
        UserError: when the implementation that was asked for cannot do what was asked.
    """
    if implementation not in _IMPLEMENTATIONS:
        raise UserError(f"There is no attention '{implementation}'", nearest(implementation, _IMPLEMENTATIONS))
    platform = _platform.get() or jax.default_backend()
    half = dtype in (jnp.bfloat16, jnp.float16)
    fits_cudnn = platform == "gpu" and half and width % 8 == 0 and width <= 128
    if implementation == "auto":
        if needs_weights or platform == "cpu":
            return "explicit"
        if platform == "tpu" and plain:
            return "recomputed"
        # A mask reaches cuDNN as a bias, and with a bias it demands even sequence lengths in training.
        return "cudnn" if fits_cudnn and plain and cudnn_works(str(jnp.dtype(dtype)), width) else "xla"
    if implementation != "explicit" and needs_weights:
        raise UserError(
            f"The attention '{implementation}' cannot drop or return its weights", "Use 'explicit' or 'auto'"
        )
    if implementation == "recomputed" and not plain:
        raise UserError("The attention 'recomputed' takes no bias and no mask", "Use 'explicit', 'xla' or 'auto'")
    if implementation == "cudnn" and not fits_cudnn:
        raise UserError(
            f"The attention 'cudnn' cannot run {jnp.dtype(dtype)} heads of width {width} on {platform}",
            "It needs a GPU, bfloat16 or float16, and a head width up to 128 that 8 divides; 'auto' chooses for you",
        )
    return implementation


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
    plain, needs_weights = bias is None and mask is None, dropout_rate > 0 or return_weights
    implementation = chosen(implementation, q.dtype, q.shape[-1], plain=plain, needs_weights=needs_weights)
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
        dropout_rate = self.dropout_rate if train else 0.0
        needs_weights = dropout_rate > 0 or self.sow_weights
        implementation = chosen(self.implementation, self.dtype, heads[1], needs_weights=needs_weights)
        if implementation == "recomputed" and x_kv is x_q:
            qkv = checkpoint_name(self._projections(x_q, heads), SAVED[0])
            return project("out", width, axis=(-2, -1))(recomputed_self_attention(qkv))
        inputs = (("query", x_q), ("key", x_kv), ("value", x_kv))
        q, k, v = (checkpoint_name(project(name, heads)(x), SAVED[0]) for name, x in inputs)
        out = attention(
            q,
            k,
            v,
            dropout_rate=dropout_rate,
            dropout_rng=self.make_rng("dropout") if dropout_rate > 0 else None,
            implementation=implementation,
            return_weights=self.sow_weights,
        )
        if self.sow_weights:
            out, weights = out
            self.sow("intermediates", "attention_weights", weights)
        return project("out", width, axis=(-2, -1))(checkpoint_name(out, SAVED[1]))

    def _projections(self, x: Float[Array, "b t width"], heads: tuple[int, int]) -> Float[Array, "b t 3 h d"]:
        """Queries, keys and values by one product, which reads `x` once instead of three times."""
        names = ("query", "key", "value")
        three = [_Projection(heads, self.kernel_init, self.qkv_bias, name=name)(x.shape[-1]) for name in names]
        kernel = jnp.stack([kernel.astype(self.dtype) for kernel, _ in three], axis=1)
        qkv = jnp.einsum("btw,wchd->btchd", x.astype(self.dtype), kernel)
        return qkv + jnp.stack([bias.astype(self.dtype) for _, bias in three]) if self.qkv_bias else qkv


class _Projection(nn.Module):
    """The parameters of a dense layer to heads, as `nn.DenseGeneral` makes them."""

    heads: tuple[int, int]
    kernel_init: Callable
    use_bias: bool

    @nn.compact
    def __call__(self, width: int) -> tuple[Float[Array, "width h d"], Float[Array, "h d"] | None]:
        def flat_init(rng: PRNGKeyArray) -> Float[Array, "width h d"]:
            return self.kernel_init(rng, (width, self.heads[0] * self.heads[1])).reshape(width, *self.heads)

        # The kernel comes first: its key depends on how many parameters were made before.
        kernel = self.param("kernel", flat_init)
        return kernel, self.param("bias", nn.initializers.zeros, self.heads) if self.use_bias else None
