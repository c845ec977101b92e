"""What a diffusion is told beside its image as vectors: numbers, such as the timestep, and classes."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Shaped

from vit_jax.errors import UserError


def time_features(
    times: Shaped[Array, "*b"], width: int, temperature: float = 1e4, *, sine_first: bool = False, shift: int = 0
) -> Float[Array, "*b width"]:
    """Cosines and sines of t temperature^(-i / (width / 2 - shift)), i below width / 2, float32.

    Args:
        times: any numbers.
        width: even, and more than twice the shift.
        sine_first: the order of the two halves. DDPM's code (arXiv:2006.11239) has sines first and a shift of 1, ADM,
            Stable Diffusion and DiT have cosines first and none.
        shift: with 1 the last frequency is 1 / temperature itself.

    Raises:
        UserError: for another width.
    """
    if width % 2 or width <= 2 * shift:
        raise UserError(
            f"Sines and cosines cannot fill a width of {width}", f"Use an even width of more than {2 * shift}"
        )
    frequencies = jnp.exp(-jnp.log(temperature) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2 - shift))
    angles = jnp.asarray(times, jnp.float32)[..., None] * frequencies
    halves = [jnp.cos(angles), jnp.sin(angles)]
    return jnp.concatenate(halves[::-1] if sine_first else halves, axis=-1)


class TimeEmbedding(nn.Module):
    """Two dense layers with a SiLU between, on `time_features` (DiT, arXiv:2212.09748).

    Parameters, float32: `fc1` with kernel [features, width] and `fc2` with kernel [width, width], and their biases.

    Attributes:
        width: of the result.
        features: how many sines and cosines.
        dtype: of the computation.
        sine_first: see `time_features`, like `shift`.
    """

    width: int
    features: int = 256
    dtype: DTypeLike = jnp.float32
    sine_first: bool = False
    shift: int = 0

    @nn.compact
    def __call__(self, times: Shaped[Array, "*b"]) -> Float[Array, "*b width"]:
        init = nn.initializers.normal(0.02)
        x = time_features(times, self.features, sine_first=self.sine_first, shift=self.shift)
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="fc1")(x)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="fc2")(nn.silu(x))


class ClassEmbedding(nn.Embed):
    """A vector for each class. Parameters, float32: `embedding` [classes, width].

    Raises:
        UserError: for no classes where there is a table of them.
    """

    def __call__(self, labels: Int[Array, "*b"] | None) -> Float[Array, "*b width"]:
        if labels is None:
            raise UserError(
                f"This network is told one of {self.num_embeddings} classes, and was given none", "Give it labels"
            )
        return super().__call__(labels)
