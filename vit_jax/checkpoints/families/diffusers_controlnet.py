"""ControlNets as diffusers names them (`ControlNetModel`)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import DIFFUSERS_CONTROLNET
from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import conditional_unet as parts
from vit_jax.checkpoints.parts import diffusers, unet
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.controlnet import build

LIBRARY = "diffusers"
MODELS = "ControlNetModel of Stable Diffusion 1 and 2"
WRITES = ("controlnet",)
COMPARED = "what diffusers' own models add to a U-Net; files of ours read by diffusers"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not parts.is_conditional(tensors) or f"{parts.DIFFUSERS_CONTROL.zero_middle}.weight" not in tensors:
        return None
    config = sidecar.config
    diffusers.check(config, DIFFUSERS_CONTROLNET, "ControlNetModel")
    kwargs, remarks = parts.diffusers_kwargs(tensors, config)
    kwargs |= parts.control_kwargs(tensors, parts.DIFFUSERS_CONTROL)
    # It is called with latents, whose autoencoder is elsewhere.
    return Published("controlnet", kwargs, None, {}, (), remarks, task={"name": "features", "kwargs": {}})


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    model = build(**complete(build, kwargs))
    entries = unet.levels_entries(model, unet.DIFFUSERS, parts.attention_of(model), up=False)
    return NameMap(entries + parts.control_entries(model, parts.DIFFUSERS_CONTROL))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "controlnet"):
        return None
    kwargs = complete(build, metadata["model"]["kwargs"])
    config = parts.diffusers_config(kwargs)
    if config is None:
        return None
    said = {
        "conditioning_channels": kwargs["control_channels"],
        "conditioning_embedding_out_channels": list(kwargs["hint_widths"]),
    }
    return {"config.json": {"_class_name": "ControlNetModel", **config, **said}}
