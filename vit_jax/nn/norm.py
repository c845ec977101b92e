"""Layer and RMS normalisation, computed in float32 whatever the dtype of the input.

Blocks give their norms names that start with "norm": under such a name parameters stay float32 where others are cast.
"""

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
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
            bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        x = x.astype(jnp.float32)
        shifted = x - x[..., :1]
        mean = shifted.mean(axis=-1, keepdims=True)
        variance = jnp.maximum(jnp.square(shifted).mean(axis=-1, keepdims=True) - jnp.square(mean), 0.0)
        # Not shifted - mean: XLA would write out what is shifted.
        normalised = (x - (mean + x[..., :1])) * jax.lax.rsqrt(variance + self.epsilon)
        return (normalised * scale + bias if self.affine else normalised).astype(self.dtype)


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
