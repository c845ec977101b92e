"""How a diffusion's samples come about: the face that each of its tasks shows to what samples, and to what looks at the
steps."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.nn.diffusion import Noising, Steps, denoise


@dataclasses.dataclass(frozen=True, eq=False)
class ReverseProcess:
    """From noise to images by one network, with its parameters and conditions in it; to be used while they are traced.

    Args:
        predict: x_t [B, *shape] and the timestep, a scalar, to what the network says, guided where that is asked for.
        noising: the steps that are gone.
        how: how a step is taken.
        shape: of one x, such as (height, width, channels).
        encode: images [B, H, W, 3] in -1..1 to what is diffused.
        decode: the way back, to images in 0..1.
    """

    predict: Callable[[Float[Array, "b *d"], Int[Array, ""]], Float[Array, "b *e"]]
    noising: Noising
    how: Steps
    shape: tuple[int, ...]
    encode: Callable[[Float[Array, "b H W 3"]], Float[Array, "b *d"]]
    decode: Callable[[Float[Array, "b *d"]], Float[Array, "b H W 3"]]

    def start(self, keys: PRNGKeyArray) -> Float[Array, "b *d"]:
        """The noise that samples begin with, of each key [B] its own."""
        return self.noise(keys)(jnp.int32(len(self.noising.timesteps)))

    def noise(self, keys: PRNGKeyArray) -> Callable[[Int[Array, ""]], Float[Array, "b *d"]]:
        """That of the n-th step on the way, counted from 0."""
        return lambda n: jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, n), self.shape))(keys)

    def sample(self, keys: PRNGKeyArray, start: Float[Array, "b *d"] | None = None) -> Float[Array, "b *d"]:
        """x_0 of each key [B].

        Args:
            start: the noise to begin with, by default that of the keys.
        """
        start = self.start(keys) if start is None else start
        return denoise(self.predict, self.noising, start, self.noise(keys), self.how)


class Diffuses:
    """Part of a task whose samples are noise from which a network takes noise away."""

    def reverse_process(
        self, variables: Mapping[str, Any], conditions: Mapping[str, Array], settings: Any
    ) -> ReverseProcess:
        """What `sample` goes by, of the same arguments but the keys.

        Raises:
            UserError: for settings that do not fit.
        """
        raise NotImplementedError
