"""Scaled dot-product attention on one of five implementations."""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, Shaped

from vit_jax.errors import UserError
from vit_jax.nn import fused_attention
from vit_jax.nn import mask as masks
from vit_jax.nn.cudnn_attention import cudnn_attention, cudnn_works
from vit_jax.nn.mask import Band, Mask
from vit_jax.nn.platform import platform as platform_traced_for
from vit_jax.nn.recomputed_attention import recomputed_attention
from vit_jax.spelling import nearest

Implementation = Literal["auto", "explicit", "fused", "recomputed", "xla", "cudnn"]
Empty = Literal["uniform", "zero"]

_IMPLEMENTATIONS = get_args(Implementation)


def check_implementation(implementation: str) -> None:
    """Raises a UserError for an unknown implementation."""
    if implementation not in _IMPLEMENTATIONS:
        raise UserError(f"Unknown attention {implementation!r}", nearest(implementation, _IMPLEMENTATIONS))


def chosen(
    implementation: Implementation,
    dtype: DTypeLike,
    width: int,
    *,
    biased: bool = False,
    mask: Mask | None = None,
    needs_weights: bool = False,
    itself: tuple[int, int] | None = None,
) -> Implementation:
    """What "auto" comes to, or the implementation itself where it can do what is asked; see `attention`.

    Args:
        dtype: of the queries.
        width: of a head.
        biased: there is a bias.
        mask: as `attention` gets it.
        needs_weights: for dropping some of them, or to return them.
        itself: tokens and heads, where there are as many queries as keys.

    Raises:
        UserError: when the implementation that was asked for cannot do what was asked.
    """
    check_implementation(implementation)
    mask = masks.as_mask(mask)
    banded = mask is None or isinstance(mask, Band)
    platform = platform_traced_for()
    half = dtype in (jnp.bfloat16, jnp.float16)
    fits_fused = itself is not None and half and fused_attention.fits(*itself, width) and banded and not biased
    fits_cudnn = platform == "gpu" and half and width % 8 == 0 and width <= 128
    if implementation == "auto":
        if needs_weights or platform == "cpu":
            return "explicit"
        if platform == "tpu" and banded and not biased:
            works = fits_fused and fused_attention.works(itself[0], width, str(jnp.dtype(dtype)), mask)
            return "fused" if works else "recomputed"
        # An arbitrary mask reaches cuDNN as a bias, and with a bias it demands even sequence lengths in training. The
        # bands that it knows are causal.
        known = not biased and banded and (mask is None or mask.after == 0)
        here = jax.default_backend() == "gpu"
        return "cudnn" if fits_cudnn and known and cudnn_works(str(jnp.dtype(dtype)), width, here) else "xla"
    if implementation != "explicit" and needs_weights:
        raise UserError(
            f"The attention '{implementation}' cannot drop or return its weights", "Use 'explicit' or 'auto'"
        )
    if implementation == "fused" and not (fits_fused and platform == "tpu"):
        raise UserError(
            f"The attention 'fused' cannot run this on {platform}",
            f"It needs a TPU, half precision, at most {fused_attention.MAX_TOKENS} tokens that attend to each other, "
            "heads that fill 128 features side by side, and no mask but 'causal' and windows; 'auto' chooses for you",
        )
    if implementation == "recomputed" and (biased or not banded):
        raise UserError(
            "The attention 'recomputed' takes no bias, and no mask but 'causal' and windows",
            "Use 'explicit', 'xla' or 'auto'",
        )
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
    bias: Float[Array, "w #h #t #s"] | None = None,
    mask: Mask | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: PRNGKeyArray | None = None,
    implementation: Implementation = "auto",
    return_weights: bool = False,
    empty: Empty = "uniform",
) -> Float[Array, "b t h d"] | tuple[Float[Array, "b t h d"], Float[Array, "b h t s"]]:
    """softmax(scale q k^T + bias) v, with the softmax in float32 ("Attention is all you need", section 3.2.1).

    Args:
        q: queries; their dtype is the dtype of the result.
        k: keys.
        v: values.
        bias: added to the scaled logits. Its first axis divides the batch, and row i gets bias i % w: of all windows of
            one image after those of another each has its own. Nothing is made as large as the batch of it.
        mask: "causal", a window, or an array that is True where a query may attend to a key.
        scale: of the logits; None for 1 / sqrt(d).
        dropout_rate: fraction of the attention weights that is dropped, 0 for none.
        dropout_rng: the key for dropping; needed when the rate is above 0.
        implementation: "explicit" writes out the weights; "fused" is one kernel for TPUs, see `fused_self_attention`;
            "recomputed" computes the weights again in the backward pass, see `recomputed_attention`; "xla" and "cudnn"
            are those of `jax.nn.dot_product_attention`. "auto" is explicit on a CPU and wherever dropout or the weights
            are asked for; otherwise, without bias and with at most a band as the mask, cudnn where it can run (a GPU,
            half precision, a fitting head width, a causal band), fused on a TPU where it can run and recomputed where
            it cannot; and xla for the rest.
        return_weights: also return the float32 weights, before dropout.
        empty: what a query gets that may attend to nothing: "uniform", the mean of all values (BERT's padding), or
            "zero" (a text before its first image in Flamingo).

    Raises:
        UserError: when the implementation that was asked for cannot do what was asked, or a mask or bias does not fit.
    """
    shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    mask = masks.as_mask(mask)
    masks.check_shape(mask, bias, shape)
    if empty not in get_args(Empty):
        raise UserError(f"Unknown empty {empty!r}", nearest(empty, get_args(Empty)))
    if empty == "zero" and mask is not None and not isinstance(mask, Band):
        found = attention(
            q, k, v, bias=bias, mask=mask, scale=scale, dropout_rate=dropout_rate, dropout_rng=dropout_rng,
            implementation=implementation, return_weights=return_weights,
        )  # fmt: skip
        some = mask.any(axis=-1, keepdims=True)
        out, *weights = found if return_weights else (found,)
        out = jnp.where(some.swapaxes(1, 2), out, 0)
        return (out, jnp.where(some, weights[0], 0.0)) if return_weights else out
    needs_weights = dropout_rate > 0 or return_weights
    implementation = chosen(
        implementation, q.dtype, q.shape[-1], biased=bias is not None, mask=mask, needs_weights=needs_weights,
        itself=(q.shape[1], q.shape[2]) if q.shape == k.shape else None,
    )  # fmt: skip
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    band, array = (mask, None) if isinstance(mask, Band) else (None, mask)
    if band is not None and band.before is not None and shape[2] > shape[3] + band.before:
        raise UserError(
            f"A window of {band.before} keys leaves the last of {shape[2]} queries none of {shape[3]} keys",
            "Use a wider window",
        )
    if implementation == "fused":
        qkv = fused_attention.grouped(*(x.reshape(*x.shape[:2], -1) for x in (q, k, v)), shape[1])
        return fused_attention.fused_self_attention(qkv, shape[1], scale, band).reshape(q.shape)
    if implementation == "recomputed":
        return recomputed_attention(q, k, v, scale, band)
    if implementation == "cudnn":
        if bias is not None and bias.shape[0] > 1:  # cuDNN takes a bias for all rows, or for each
            bias = jnp.tile(bias, (shape[0] // bias.shape[0], 1, 1, 1))
        return cudnn_attention(q, k, v, bias, array, scale, band)
    if implementation == "xla":
        return _library_attention(q, k, v, bias, array, scale=scale, **masks.library_band(band, shape))

    # Heads first makes every product below a batch of plain matrix products; the scale costs less on q than on logits.
    q, k, v = (x.swapaxes(1, 2) for x in (q * scale, k, v))
    # Not q @ k^T: XLA would write k out transposed, which it can multiply with as it lies.
    logits = jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = (_by_bias(logits, bias) + bias.astype(jnp.float32)).reshape(logits.shape)
    if mask is not None:
        seen = array if band is None else masks.dense(band, *shape[2:])
        # Finite, so that a query which may attend to nothing gets uniform weights and not NaN.
        logits = jnp.where(seen, logits, jnp.finfo(jnp.float32).min)
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


def _by_bias(x: Shaped[Array, "b *rest"], bias: Float[Array, "w h t s"]) -> Shaped[Array, "n w *rest"]:
    """The rows that each of several biases belongs to, side by side; `x` itself where there is one for all or each."""
    return x if bias.shape[0] in (1, len(x)) else x.reshape(-1, bias.shape[0], *x.shape[1:])


def _library_attention(
    q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None, **how: Any
) -> Float[Array, "b t h d"]:
    """`jax.nn.dot_product_attention`, which takes a bias for all rows or for each, over the rows of each bias."""
    attend = functools.partial(jax.nn.dot_product_attention, implementation="xla", **how)
    if bias is None or bias.shape[0] in (1, len(q)):
        return attend(q, k, v, bias=bias, mask=mask)
    if mask is not None:
        mask = _by_bias(jnp.broadcast_to(mask, (len(q), *mask.shape[1:])), bias)

    def of_one(q: Array, k: Array, v: Array, bias: Array, mask: Array | None) -> Array:
        return attend(q, k, v, bias=bias[None], mask=mask)

    axes = (1, 1, 1, 0, None if mask is None else 1)
    out = jax.vmap(of_one, axes, out_axes=1)(*(_by_bias(x, bias) for x in (q, k, v)), bias, mask)
    return out.reshape(q.shape[0], *out.shape[2:])
