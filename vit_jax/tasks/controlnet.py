"""A picture that images of a frozen diffusion follow: Zhang et al., "Adding conditional control to text-to-image
diffusion models" (arXiv:2302.05543, ControlNet)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.models.controlnet import Hint, together
from vit_jax.nn.diffusion import BetaSchedule, Prediction, Spacing
from vit_jax.nn.reverse_process import steps_left
from vit_jax.ranges import Count, Decay, Natural, NonNegative, Positive, Share
from vit_jax.tasks import DataInfo, Picture, Variables, in_training
from vit_jax.tasks._latent_diffusion import Denoiser, LatentDiffusionTask, LatentSampling, parts, repeated

_FIELD = "control"


@dataclasses.dataclass(frozen=True)
class ControlSampling(LatentSampling):
    """How images are drawn, see `LatentSampling`. Of several controls each number is one for all, or one of each.

    Args:
        control_scale: what is added to the U-Net is multiplied by it; 0 for no control.
        control_start: share of the steps after which control begins,
        control_end: and after which it ends.
    """

    control_scale: NonNegative | Sequence[NonNegative] = 1.0
    control_start: Share | Sequence[Share] = 0.0
    control_end: Share | Sequence[Share] = 1.0

    def __post_init__(self):
        for name in ("control_scale", "control_start", "control_end"):
            if isinstance(value := getattr(self, name), list):  # which nothing can be looked up by
                object.__setattr__(self, name, tuple(value))


@dataclasses.dataclass(frozen=True)
class ControlledDiffusion(LatentDiffusionTask):
    """See `LatentDiffusionTask`. `params["unet"]` is frozen too: what is learned are `control_0`, `control_1`, ...,
    whose outputs are added to it. They begin as copies of it by `init_from={"control_0": "PATH::unet"}`, and add
    nothing at first.

    A batch has `control` float [B, H, W, 3K] in 0..1 too.
    """

    locked_when_loaded: ClassVar[tuple[str, ...]] = (*LatentDiffusionTask.locked_when_loaded, "unet")
    sampling: ClassVar[type] = ControlSampling
    _goes_by: ClassVar[tuple[str, ...]] = (_FIELD,)

    def pictures(self, settings: ControlSampling) -> dict[str, Picture]:
        found = super().pictures(settings)
        return {**found, _FIELD: Picture("control", found["image"].size, len(self.model.control), needed=True)}

    def _denoiser(
        self,
        variables: Variables,
        given: Mapping[str, Array],
        keys: PRNGKeyArray | None = None,
        settings: ControlSampling | None = None,
    ) -> Denoiser:
        nets, params = self.model.control, [variables["params"][f"control_{i}"] for i in range(len(self.model.control))]
        unet = {"params": jax.lax.stop_gradient(variables["params"]["unet"])}
        images = jnp.split(given[_FIELD], len(nets), axis=-1)
        if keys is not None:

            def trained(x: Array, times: Array, context: Array) -> Array:
                added = [
                    in_training(net, of, {}, _of_control(i, keys), x, times, context, image)[0]
                    for i, (net, of, image) in enumerate(zip(nets, params, images, strict=True))
                ]
                return self.model.unet.apply(unet, x, times, context, residuals=together(added))

            return trained

        hints = [
            net.apply({"params": of}, image, method="hinted").map
            for net, of, image in zip(nets, params, images, strict=True)
        ]
        scales = jnp.asarray(self._scales(settings, given), jnp.float32)

        def network(x: Array, times: Array, context: Any) -> Array:
            known, *own = context
            added = [
                net.apply({"params": of}, x, times, keys_values, Hint(repeated(hint, len(x))), scale=scales[i, times])
                for i, (net, of, keys_values, hint) in enumerate(zip(nets, params, own, hints, strict=True))
            ]
            return self.model.unet.apply(unet, x, times, known, residuals=together(added))

        return network

    def _shared(self, variables: Variables, context: Float[Array, "B L D"]) -> list[Any]:
        """Those of the U-Net, and of each control."""
        own = [
            net.apply({"params": variables["params"][f"control_{i}"]}, context, method="context_keys_values")
            for i, net in enumerate(self.model.control)
        ]
        return [super()._shared(variables, context), *own]

    def _scales(self, settings: ControlSampling, given: Mapping[str, Array]) -> Float[np.ndarray, "K T"]:
        """Of each control what it is multiplied by at each timestep, as diffusers counts the share of the steps that
        are gone: of those that a strength leaves."""
        timesteps = self._noising(settings).timesteps
        timesteps = timesteps[: steps_left(given, settings.strength, len(timesteps))][::-1]
        number, count = np.arange(len(timesteps)), len(timesteps)
        found = np.zeros((len(self.model.control), self.steps))
        rows = zip(*(self._of_each(settings, name) for name in ("scale", "start", "end")), strict=True)
        for i, (scale, start, end) in enumerate(rows):
            if start >= end:
                raise UserError(f"Control from {start:g} to {end:g} of the steps is none", "Let it end later")
            found[i, timesteps] = scale * ((number / count >= start) & ((number + 1) / count <= end))
        return found

    def _of_each(self, settings: ControlSampling, name: str) -> Sequence[float]:
        value, count = getattr(settings, f"control_{name}"), len(self.model.control)
        values = value if isinstance(value, Sequence) else (value,) * count
        if len(values) != count:
            raise UserError(
                f"control_{name} has {len(values)} numbers, and there are {count} controls", "Give one each"
            )
        return values


def _of_control(number: int, keys: Sequence[PRNGKeyArray]) -> Sequence[PRNGKeyArray]:
    """What a control drops is its own; the first has the keys of one that is alone."""
    return [jax.random.fold_in(key, number) for key in keys] if number else keys


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    text_drop: Decay = 0.5,
    prediction: Prediction = "epsilon",
    variance: Literal["small", "large"] = "small",
    schedule: BetaSchedule = "scaled_linear",
    steps: Count = 1000,
    first: Positive = 0.00085,
    last: Positive = 0.012,
    spacing: Spacing = "leading",
    offset: Natural = 1,
    to_image: bool = False,
) -> ControlledDiffusion:
    """The task; see `vit_jax.tasks.text_to_image.build`.

    Args:
        model: the section of a `latent_diffusion` with a `control`, one or several.
        text_drop: half of the examples are shown without their text, so that control is learned from what it shows
            (section 3.4); the others are those of `LatentDiffusionTask`.

    Raises:
        UserError: for a model without control.
    """
    found = parts(model, data)
    if not found["model"].control:
        raise UserError("The model has nothing that control goes through", "Set config.model.control")
    return ControlledDiffusion(
        **found, text_drop=text_drop, prediction=prediction, variance=variance, schedule=schedule, steps=steps,
        first=first, last=last, spacing=spacing, offset=offset, to_image=to_image,
    )  # fmt: skip
