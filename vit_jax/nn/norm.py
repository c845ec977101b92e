"""Layer and RMS normalisation, computed in float32 whatever the dtype of the input.

Blocks give their norms names that start with "norm": under such a name parameters stay float32 where others are cast.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis ("Layer Normalization", arXiv:1607.06450), computed in float32.

    Mean and mean square are of x - x[0], so that one pass over x finds both, without the cancellation that
    E[x^2] - E[x]^2 suffers where the mean is far from zero.

    Parameters, float32: `scale` [D], one at first, and `bias` [D]; none without `affine`.

    Attributes:
        epsilon: added to the variance.
        dtype: dtype of the result.
        affine: multiply by a learned scale and add a learned bias.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b width"]) -> Float[Array, "*b width"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:]) if self.affine else None
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:]) if self.affine else None
        return _layer_norm(x, scale, bias, self.epsilon, self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _layer_norm(x: Array, scale: Array | None, bias: Array | None, epsilon: float, dtype: DTypeLike) -> Array:
    return _forward(x, scale, bias, epsilon, dtype)[0]


def _forward(
    x: Array, scale: Array | None, bias: Array | None, epsilon: float, dtype: DTypeLike
) -> tuple[Array, tuple[Array | None, ...]]:
    first = _again(x[..., :1])
    shifted = x.astype(jnp.float32) - first
    mean = shifted.mean(axis=-1, keepdims=True)
    variance = jnp.maximum(jnp.square(shifted).mean(axis=-1, keepdims=True) - jnp.square(mean), 0.0)
    mean, inverse = mean + first, jax.lax.rsqrt(variance + epsilon)
    # Not shifted - mean: XLA would write out what is shifted.
    y = (_again(x) - mean) * inverse
    if scale is not None:
        y = y * scale + bias
    return y.astype(dtype), (x, scale, mean, inverse)


def _backward(
    epsilon: float, dtype: DTypeLike, saved: tuple[Array | None, ...], gradient: Array
) -> tuple[Array | None, ...]:
    """What is normalised is computed again from `x`, which is kept anyway, and never written out in float32."""
    x, scale, mean, inverse = saved

    def normalised() -> Array:
        return (_again(x) - mean) * inverse

    gradient = gradient.astype(jnp.float32)
    wide = gradient if scale is None else gradient * scale
    along = jnp.mean(wide * normalised(), axis=-1, keepdims=True)
    of_x = inverse * (wide - wide.mean(axis=-1, keepdims=True) - normalised() * along)
    if scale is None:
        return of_x.astype(x.dtype), None, None
    rows = tuple(range(x.ndim - 1))
    return of_x.astype(x.dtype), (gradient * normalised()).sum(rows), gradient.sum(rows)


def _again(x: Array) -> Array:
    """`x` in float32 for one more use: the compiler would write it out in float32 where it sees several uses of it."""
    return (x if x.dtype == jnp.float32 else jax.lax.optimization_barrier(x)).astype(jnp.float32)


_layer_norm.defvjp(_forward, _backward)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) over the last axis ("Root mean square layer normalization", arXiv:1910.07467).

    Parameters, float32: `scale` [D], one at first; none without `affine`.

    Attributes: see `LayerNorm`.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b width"]) -> Float[Array, "*b width"]:
        x = x.astype(jnp.float32)
        normalised = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.epsilon)
        if self.affine:
            normalised = normalised * self.param("scale", nn.initializers.ones, x.shape[-1:])
        return normalised.astype(self.dtype)


NORMS = {"layer": LayerNorm, "rms": RMSNorm}


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Vectors of length 1, in float32 at least; one of zeros stays."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))
