"""Numbers, such as the timestep of a diffusion, as vectors."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Shaped

from vit_jax.errors import UserError


def time_features(times: Shaped[Array, "*b"], width: int, temperature: float = 1e4) -> Float[Array, "*b width"]:
    """Cosines, then sines, of t temperature^(-2i / width), i below width / 2, float32: the dialect of ADM and DiT.

    Args:
        times: any numbers.
        width: even.

    Raises:
        UserError: for an odd width.
    """
    if width % 2:
        raise UserError(f"Sines and cosines cannot fill a width of {width}", "Use an even width")
    frequencies = jnp.exp(-jnp.log(temperature) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))
    angles = jnp.asarray(times, jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """Two dense layers with a SiLU between, on `time_features` (DiT, arXiv:2212.09748).

    Parameters, float32: `fc1` with kernel [features, width] and `fc2` with kernel [width, width], and their biases.

    Attributes:
        width: of the result.
        features: how many sines and cosines.
        dtype: of the computation.
    """

    width: int
    features: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, times: Shaped[Array, "*b"]) -> Float[Array, "*b width"]:
        init = nn.initializers.normal(0.02)
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="fc1")(time_features(times, self.features))
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="fc2")(nn.silu(x))
