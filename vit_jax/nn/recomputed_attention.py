"""Attention that keeps no weights for the backward pass, in plain XLA operations: what TPUs run."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from vit_jax.nn.mask import Band, dense

# Under these names a rematerialisation policy finds what the backward pass reads beside q, k and v.
OUTPUT, STATISTICS = "attention_output", "attention_statistics"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def recomputed_attention(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s h d"],
    v: Float[Array, "b s h d"],
    scale: float,
    band: Band | None = None,
) -> Float[Array, "b t h d"]:
    """softmax(scale q k^T) v with the softmax in float32; the backward pass computes the weights again.

    The products q k^T are computed twice forward, once for each row's maximum and once for the weights: a product of
    heads this narrow costs less than a write and a read of float32 logits, the largest array of a model in bfloat16.
    Backward reads one number per query instead of the weights, as in FlashAttention (arXiv:2205.14135, section 3.1).

    Args:
        band: which keys a query sees; each sees at least one.
    """
    return _forward(q, k, v, scale, band)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def recomputed_self_attention(
    qkv: Float[Array, "b t 3 h d"], scale: float, band: Band | None = None
) -> Float[Array, "b t h d"]:
    """`recomputed_attention` of queries, keys and values that one product made."""
    return _forward(*_parts(qkv), scale, band)[0]


def _parts(qkv: Float[Array, "b t 3 h d"]) -> tuple[Array, Array, Array]:
    return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]


def _logits(
    q: Float[Array, "b t h d"], k: Float[Array, "b s h d"], scale: float, band: Band | None
) -> Float[Array, "b h t s"]:
    logits = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) * scale
    if band is None:
        return logits
    return jnp.where(dense(band, q.shape[1], k.shape[1]), logits, jnp.finfo(jnp.float32).min)


def _forward(q: Array, k: Array, v: Array, scale: float, band: Band | None) -> tuple[Array, Array]:
    """The output, and for each query the logarithm of the sum of its exponentials."""
    highest = _logits(q, k, scale, band).max(axis=-1, keepdims=True)
    # The barrier keeps the compiler from computing both products once, which would write the logits out.
    weights = jnp.exp(_logits(*jax.lax.optimization_barrier((q, k)), scale, band) - highest)
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("bhts,bshd->bthd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    out = checkpoint_name((out / total.swapaxes(1, 2)).astype(v.dtype), OUTPUT)
    return out, checkpoint_name((highest + jnp.log(total))[..., 0], STATISTICS)


def _backward(
    scale: float, band: Band | None, q: Array, k: Array, v: Array, out: Array, statistics: Array, gradient: Array
) -> tuple[Array, ...]:
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    # Rounded for both its uses, behind a barrier: the compiler would write it out in float32.
    weights = jnp.exp(_logits(q, k, scale, band) - statistics[..., None]).astype(v.dtype)
    weights = jax.lax.optimization_barrier(weights)
    dv = product("bhts,bthd->bshd", weights, gradient)
    # The softmax's gradient subtracts from that of each weight its mean under the weights, which is the output's.
    mean = jnp.einsum("bthd,bthd->bht", out.astype(jnp.float32), gradient.astype(jnp.float32))
    of_weights = product("bthd,bshd->bhts", gradient, v)
    of_logits = weights.astype(jnp.float32) * (of_weights - mean[..., None]) * scale
    of_logits = of_logits.astype(q.dtype)
    dq = product("bhts,bshd->bthd", of_logits, k)
    dk = product("bhts,bthd->bshd", of_logits, q)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


def _forward_of_three(q: Array, k: Array, v: Array, scale: float, band: Band | None) -> tuple[Array, tuple[Array, ...]]:
    out, statistics = _forward(q, k, v, scale, band)
    return out, (q, k, v, out, statistics)


def _backward_of_three(scale: float, band: Band | None, saved: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    return _backward(scale, band, *jax.lax.optimization_barrier((*saved, gradient)))


def _forward_of_one(qkv: Array, scale: float, band: Band | None) -> tuple[Array, tuple[Array, ...]]:
    out, statistics = _forward(*_parts(qkv), scale, band)
    return out, (qkv, out, statistics)


def _backward_of_one(scale: float, band: Band | None, saved: tuple[Array, ...], gradient: Array) -> tuple[Array]:
    qkv, *others = jax.lax.optimization_barrier((*saved, gradient))
    return (jnp.stack(_backward(scale, band, *_parts(qkv), *others), axis=2),)


recomputed_attention.defvjp(_forward_of_three, _backward_of_three)
recomputed_self_attention.defvjp(_forward_of_one, _backward_of_one)
