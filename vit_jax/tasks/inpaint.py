"""Latent diffusion that fills in what a mask hides: Rombach et al. (arXiv:2112.10752, section 4.5), as Stable
Diffusion's model for it was trained: the U-Net sees the mask and the latents of what is left beside the noise."""

import dataclasses
from collections import ChainMap
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.nn.diffusion import BetaSchedule, Prediction, Spacing
from vit_jax.nn.resize import resize_maps
from vit_jax.ranges import Count, Decay, Natural, Positive, Share
from vit_jax.tasks import Batch, DataInfo, Metrics, Picture, Variables
from vit_jax.tasks._latent_diffusion import LatentDiffusionTask, LatentSampling, parts

_BOXES = 4  # of a mask, at most
_MASKING = 2**31 - 1  # key of a sample's mask: those from 0 on are of the noise of its steps


@dataclasses.dataclass(frozen=True)
class Inpaint(LatentDiffusionTask):
    """See `LatentDiffusionTask`. The U-Net reads the latents, the mask at their size (the nearest pixel of each place),
    and the latents of the image with 0 where it is masked.

    A batch may have `mask` float [B, H, W, 1], 1 where the image is to be new; without, masks are drawn: one to four
    boxes, or everything.

    Args:
        everything: share of training examples of which everything is masked.
    """

    everything: float = 0.25
    takes: ClassVar[tuple[str, ...]] = ()
    _goes_by: ClassVar[tuple[str, ...]] = ("image", "mask")
    _sees_mask: ClassVar[bool] = True

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        masking, rng = jax.random.split(rng)
        masks = jax.vmap(self._drawn_mask)(jax.random.split(masking, len(batch["image"])))
        return super().loss(variables, _with_mask(batch, masks), rng, step)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        masks = jax.vmap(lambda key: self._drawn_mask(jax.random.fold_in(key, _MASKING)))(rng)
        return super().outputs(variables, _with_mask(batch, masks), names, rng)

    def pictures(self, settings: LatentSampling) -> dict[str, Picture]:
        found = super().pictures(settings)
        return {name: dataclasses.replace(picture, needed=True) for name, picture in found.items()}

    def _beside(self, variables: Variables, given: Mapping[str, Array]) -> Float[Array, "B h w 5"]:
        mask = given["mask"]
        left = self._apply(variables, given["image"] * (mask < 0.5), method="encode")
        return jnp.concatenate([resize_maps(mask, left.shape[1:3], "nearest"), left], axis=-1)

    def _drawn_mask(self, key: PRNGKeyArray) -> Float[Array, "H W 1"]:
        """Of one example."""
        counting, placing, whole = jax.random.split(key, 3)
        inside = []
        for axis, side in enumerate(self.image_size):
            middle, length = jax.random.uniform(jax.random.fold_in(placing, axis), (2, _BOXES))
            length = 0.125 + 0.5 * length  # of the side
            at = (jnp.arange(side) + 0.5) / side
            inside.append(jnp.abs(at - middle[:, None]) < length[:, None] / 2)
        there = jnp.arange(_BOXES) <= jax.random.randint(counting, (), 0, _BOXES)
        boxes = inside[0][:, :, None] & inside[1][:, None, :] & there[:, None, None]
        everything = jax.random.bernoulli(whole, self.everything)
        return (boxes.any(axis=0) | everything).astype(jnp.float32)[..., None]


def _with_mask(batch: Batch, masks: Float[Array, "B H W 1"]) -> Batch:
    """The batch with these masks, where it has none."""
    return batch if "mask" in batch else ChainMap({"mask": masks}, batch)


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    text_drop: Decay = 0.1,
    everything: Share = 0.25,
    prediction: Prediction = "epsilon",
    variance: Literal["small", "large"] = "small",
    schedule: BetaSchedule = "scaled_linear",
    steps: Count = 1000,
    first: Positive = 0.00085,
    last: Positive = 0.012,
    spacing: Spacing = "leading",
    offset: Natural = 1,
    to_image: bool = False,
) -> Inpaint:
    """The task; see `vit_jax.tasks.text_to_image.build`.

    Args:
        model: the section of a `latent_diffusion`, whose U-Net reads five channels more than latents have.
        everything: see `Inpaint`; the others are those of `LatentDiffusionTask`.
    """
    return Inpaint(
        **parts(model, data, extra=1, images=1), everything=everything, text_drop=text_drop, prediction=prediction,
        variance=variance, schedule=schedule, steps=steps, first=first, last=last, spacing=spacing, offset=offset,
        to_image=to_image,
    )  # fmt: skip
