"""How a diffusion's samples come about: the face that each of its tasks shows to what samples, and to what looks at the
steps."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.nn.diffusion import BetaSchedule, Noising, Steps, add_noise, betas, denoise
from vit_jax.nn.diffusion_paths import Trail, trail
from vit_jax.nn.resize import resize_maps

_STRENGTH = 0.8  # diffusers' of an image to image


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
        begun: what there is of an image to begin with, to which the noise of the first step is added; None for noise
            alone.
        kept: an image, and a mask [B, h, w, 1] with 1 where it is to be new: after each step x is elsewhere what the
            image is with that step's noise, and in the end the image (RePaint, arXiv:2201.09865, equation 8, with one
            noise for all steps, as diffusers has it). None where all is new.
        gradient: of x_t and the timestep, what leads a step beside the network, see `vit_jax.nn.diffusion.step_back`.
    """

    predict: Callable[[Float[Array, "b *d"], Int[Array, ""]], Float[Array, "b *e"]]
    noising: Noising
    how: Steps
    shape: tuple[int, ...]
    encode: Callable[[Float[Array, "b H W 3"]], Float[Array, "b *d"]]
    decode: Callable[[Float[Array, "b *d"]], Float[Array, "b H W 3"]]
    begun: Float[Array, "b *d"] | None = None
    kept: tuple[Float[Array, "b h w c"], Float[Array, "b h w 1"]] | None = None
    gradient: Callable[[Float[Array, "b *d"], Int[Array, ""]], Float[Array, "b *d"]] | None = None

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
        return denoise(*self._way(keys, self.start(keys) if start is None else start))

    def trail(self, keys: PRNGKeyArray) -> Trail:
        """The way that `sample` goes."""
        return trail(*self._way(keys, self.start(keys)))

    def _way(self, keys: PRNGKeyArray, start: Float[Array, "b *d"]) -> tuple[Any, ...]:
        """The arguments of `denoise` and of `trail`."""
        x = start
        if self.begun is not None:
            x = add_noise(self.noising, self.begun, start, jnp.int32(len(self.noising.timesteps) - 1))
        return self.predict, self.noising, x, self.noise(keys), self.how, self._keeping(start), self.gradient

    def _keeping(self, start: Float[Array, "b *d"]) -> Callable[[Array, Int[Array, ""]], Float[Array, "b *d"]] | None:
        """What keeps a part of an image through the steps; None where there is none."""
        if self.kept is None:
            return None
        image, mask = self.kept

        def after(x: Array, step: Int[Array, ""]) -> Array:
            noisy = add_noise(self.noising, image, start, jnp.maximum(step - 1, 0))
            return (1 - mask) * jnp.where(step > 0, noisy, image) + mask * x

        return after

    def redrawing(
        self, conditions: Mapping[str, Array], strength: float | None, sees_mask: bool = False
    ) -> "ReverseProcess":
        """The same that begins with an image, or keeps a part of one, where there is one in the conditions ("SDEdit",
        arXiv:2108.01073; Stable Diffusion's image to image).

        Args:
            conditions: `image` [B, H, W, 3] in -1..1, and `mask` [B, H, W, 1] with 1 where it is to be new.
            strength: share of the steps that are gone; None for 0.8 of an image and all with a mask. With a mask and 1
                there is noise alone to begin with.
            sees_mask: whether the network is told of the mask, and nothing has to be kept for it.

        Raises:
            UserError: for a strength without an image, or one that leaves no step.
        """
        count = steps_left(conditions, strength, len(self.noising.timesteps))
        if "image" not in conditions:
            return self
        mask = conditions.get("mask")
        image = self.encode(conditions["image"])
        places = None if mask is None else resize_maps(mask, image.shape[1:3], "nearest")
        return dataclasses.replace(
            self,
            noising=self.noising.until(count),
            begun=None if mask is not None and strength in (None, 1) else image,
            kept=None if mask is None or sees_mask else (image, places),
        )


class Diffuses:
    """Part of a task whose samples are noise from which a network takes noise away.

    Attributes:
        schedule: of the noise, with `first` and `last`, see `vit_jax.nn.diffusion.betas`.
        steps: T, of training.
        invertible: whether an image is that of its noise and its conditions alone, and of nothing else that is drawn.
    """

    schedule: ClassVar[BetaSchedule]
    steps: ClassVar[int]
    first: ClassVar[float]
    last: ClassVar[float]
    invertible: ClassVar[bool] = True

    def chain(self) -> Noising:
        """All T steps, each of which goes back to the one before, whichever of them a sampler takes."""
        return Noising.of(self._betas)

    def checked_steps(self, count: int) -> int:
        """So many steps of a sampler.

        Raises:
            UserError: for more than training has.
        """
        if count > self.steps:
            raise UserError(
                f"This model was trained with {self.steps} steps, of which none can take {count}",
                f"Use at most {self.steps}",
            )
        return count

    def reverse_process(
        self, variables: Mapping[str, Any], conditions: Mapping[str, Array], settings: Any
    ) -> ReverseProcess:
        """What `sample` goes by, of the same arguments but the keys.

        Raises:
            UserError: for settings that do not fit.
        """
        raise NotImplementedError

    @property
    def _betas(self) -> Float[np.ndarray, " T"]:
        return betas(self.schedule, self.steps, self.first, self.last)


def steps_left(conditions: Mapping[str, Any], strength: float | None, steps: int) -> int:
    """How many of a sampler's steps are gone, see `ReverseProcess.redrawing`."""
    if "image" not in conditions:
        if strength is not None:
            raise UserError(
                f"strength={strength:g} says how much of an image is drawn anew, and there is none", "Give an image"
            )
        return steps
    strength = (1.0 if "mask" in conditions else _STRENGTH) if strength is None else strength
    count = min(int(steps * strength), steps)
    if count < 1:
        least = math.ceil(1e4 / steps) / 1e4  # not below, of which the steps would be none again
        raise UserError(
            f"Of {steps} steps a strength of {strength:g} leaves none", f"Use at least {least:g}, or more steps"
        )
    return count
