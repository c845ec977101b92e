"""Latent diffusion of texts: Rombach et al., "High-resolution image synthesis with latent diffusion models"
(arXiv:2112.10752, section 3.3), as Stable Diffusion trains and draws."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from vit_jax.nn.diffusion import BetaSchedule, Prediction, Spacing
from vit_jax.ranges import Count, Decay, Natural, Positive
from vit_jax.tasks import DataInfo
from vit_jax.tasks._latent_diffusion import LatentDiffusionTask, parts


@dataclasses.dataclass(frozen=True)
class TextToImage(LatentDiffusionTask):
    """See `LatentDiffusionTask`: the U-Net sees latents and a text alone."""


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
) -> TextToImage:
    """The task; the parameters of its frozen networks come by `init_from={"autoencoder": PATH, "text": PATH}`.

    Args:
        model: the section of a `latent_diffusion`, whose `vocab_size` and `end_id` are said here.
        text_drop: see `LatentDiffusionTask`, like all others.

    Raises:
        UserError: see `vit_jax.tasks._latent_diffusion.parts`.
    """
    return TextToImage(
        **parts(model, data), text_drop=text_drop, prediction=prediction, variance=variance, schedule=schedule,
        steps=steps, first=first, last=last, spacing=spacing, offset=offset, to_image=to_image,
    )  # fmt: skip
