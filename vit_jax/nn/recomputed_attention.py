"""Attention that keeps no weights for the backward pass, in plain XLA operations: what TPUs run."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

# Under which names a rematerialisation policy finds what the backward pass reads beside q, k and v.
SAVED = ("attention_output", "attention_statistics")


@jax.custom_vjp
def recomputed_attention(
    q: Float[Array, "b t h d"], k: Float[Array, "b s h d"], v: Float[Array, "b s h d"]
) -> Float[Array, "b t h d"]:
    """softmax(q k^T / sqrt(d)) v with the softmax in float32; the backward pass computes the weights again.

    The products q k^T are computed twice forward, once for each row's maximum and once for the weights: a product of
    heads this narrow costs less than a write and a read of float32 logits, the largest array of a model in bfloat16.
    Backward reads one number per query instead of the weights, as in FlashAttention (arXiv:2205.14135, section 3.1).
    """
    return _forward(q, k, v)[0]


def _logits(q: Float[Array, "b t h d"], k: Float[Array, "b s h d"]) -> Float[Array, "b h t s"]:
    return jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5


def _forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    highest = _logits(q, k).max(axis=-1, keepdims=True)
    # The barrier keeps the compiler from computing both products once, which would write the logits out.
    weights = jnp.exp(_logits(*jax.lax.optimization_barrier((q, k))) - highest)
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("bhts,bshd->bthd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    out = checkpoint_name((out / total.swapaxes(1, 2)).astype(v.dtype), SAVED[0])
    statistics = checkpoint_name((highest + jnp.log(total))[..., 0], SAVED[1])
    return out, (q, k, v, out, statistics)


def _backward(saved: tuple[Array, ...], gradient: Float[Array, "b t h d"]) -> tuple[Array, Array, Array]:
    q, k, v, out, statistics, gradient = jax.lax.optimization_barrier((*saved, gradient))
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    # Rounded for both its uses, behind a barrier: the compiler would write it out in float32.
    weights = jax.lax.optimization_barrier(jnp.exp(_logits(q, k) - statistics[..., None]).astype(v.dtype))
    dv = product("bhts,bthd->bshd", weights, gradient)
    # The softmax's gradient subtracts from each weight's its mean under the weights, which is that of the output.
    mean = jnp.einsum("bthd,bthd->bht", out.astype(jnp.float32), gradient.astype(jnp.float32))
    of_weights = product("bthd,bshd->bhts", gradient, v)
    of_logits = (weights.astype(jnp.float32) * (of_weights - mean[..., None]) * q.shape[-1] ** -0.5).astype(q.dtype)
    dq = product("bhts,bshd->bthd", of_logits, k)
    dk = product("bhts,bthd->bshd", of_logits, q)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


recomputed_attention.defvjp(_forward, _backward)
