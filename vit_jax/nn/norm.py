"""Layer normalisation that reads its input once for both statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis ("Layer Normalization", arXiv:1607.06450), computed in float32.

    Mean and mean square are of x - x[0], so that one pass over x finds both, without the cancellation that
    E[x^2] - E[x]^2 suffers where the mean is far from zero.

    Parameters, float32: `scale` [D], one at first, and `bias` [D].

    Attributes:
        epsilon: added to the variance.
        dtype: dtype of the result.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b width"]) -> Float[Array, "*b width"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        x = x.astype(jnp.float32)
        shifted = x - x[..., :1]
        mean = shifted.mean(axis=-1, keepdims=True)
        variance = jnp.maximum(jnp.square(shifted).mean(axis=-1, keepdims=True) - jnp.square(mean), 0.0)
        # Not shifted - mean: XLA would write out what is shifted.
        normalised = (x - (mean + x[..., :1])) * jax.lax.rsqrt(variance + self.epsilon)
        return (normalised * scale + bias).astype(self.dtype)
