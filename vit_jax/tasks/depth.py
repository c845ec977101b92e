"""Latent diffusion that follows how far away things are: Stable Diffusion 2's depth to image, whose U-Net sees a map of
depth beside the latents (the model's card, of Stability AI; the architecture is that of arXiv:2112.10752)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.diffusion import BetaSchedule, Prediction, Spacing
from vit_jax.nn.resize import resize_maps
from vit_jax.ranges import Count, Decay, Natural, Positive
from vit_jax.tasks import DataInfo, Picture, Variables
from vit_jax.tasks._latent_diffusion import LatentDiffusionTask, LatentSampling, parts

_FIELD = "depth"


@dataclasses.dataclass(frozen=True)
class Depth(LatentDiffusionTask):
    """See `LatentDiffusionTask`. The U-Net reads the latents, and the depth at their size, of each image from -1 to 1.

    A batch has `depth` float [B, H, W] too, of any scale.
    """

    _goes_by: ClassVar[tuple[str, ...]] = (_FIELD,)

    def pictures(self, settings: LatentSampling) -> dict[str, Picture]:
        found = super().pictures(settings)
        return {**found, _FIELD: Picture("depth", found["image"].size, needed=True)}

    def _beside(self, variables: Variables, given: Mapping[str, Array]) -> Float[Array, "B h w 1"]:
        del variables
        depth = given[_FIELD]
        depth = depth if depth.ndim == 4 else depth[..., None]
        # PyTorch's bicubic interpolation, as diffusers' pipeline has it.
        depth = resize_maps(depth, self.model.places(depth.shape[1:3]), "bicubic")
        low, high = (of(depth, axis=(1, 2, 3), keepdims=True) for of in (jnp.min, jnp.max))
        return 2 * (depth - low) / jnp.maximum(high - low, 1e-6) - 1


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    text_drop: Decay = 0.1,
    prediction: Prediction = "epsilon",
    variance: Literal["small", "large"] = "small",
    schedule: BetaSchedule = "scaled_linear",
    steps: Count = 1000,
    first: Positive = 0.00085,
    last: Positive = 0.012,
    spacing: Spacing = "leading",
    offset: Natural = 1,
    to_image: bool = False,
) -> Depth:
    """The task; see `vit_jax.tasks.text_to_image.build`.

    Args:
        model: the section of a `latent_diffusion`, whose U-Net reads a channel more than latents have.

    Raises:
        UserError: for data without a field "depth" of one number for each pixel.
    """
    if getattr(data.fields.get(_FIELD), "dtype", None) != "float32":
        raise UserError(
            "Nothing says how far away things are in the data",
            "Set config.data.fields.depth to one of the kind 'dense' with dtype='float32'",
        )
    return Depth(
        **parts(model, data, extra=1), text_drop=text_drop, prediction=prediction, variance=variance,
        schedule=schedule, steps=steps, first=first, last=last, spacing=spacing, offset=offset, to_image=to_image,
    )  # fmt: skip
