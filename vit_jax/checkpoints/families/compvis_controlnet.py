"""ControlNets as their authors name them (github.com/lllyasviel/ControlNet), alone in a file or beside a U-Net.

They distribute pickles; this reads what `safetensors.torch.save_file` makes of them.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import conditional_unet as parts
from vit_jax.checkpoints.parts import unet
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.controlnet import build

LIBRARY = "compvis"
MODELS = "ControlNet of Stable Diffusion 1 and 2, in its authors' names"
WRITES = ("controlnet",)
COMPARED = "diffusers' conversion of such files"

PREFIX = "control_model."


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    del sidecar
    found = parts.compvis_part(tensors, (PREFIX, ""))
    if found is None or f"{parts.COMPVIS_CONTROL.zero_middle}.weight" not in found[1]:
        return None
    prefix, own = found
    kwargs, remarks = parts.compvis_kwargs(own)
    kwargs |= parts.control_kwargs(own, parts.COMPVIS_CONTROL)
    task = {"name": "features", "kwargs": {}}  # of latents, whose autoencoder is elsewhere
    return Published("controlnet", kwargs, None, {"prefix": prefix}, (), remarks, task=task)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout has the `prefix` of all names, by default the whole
    model's."""
    model, prefix = build(**complete(build, kwargs)), layout.get("prefix", PREFIX)
    entries = unet.levels_entries(model, unet.COMPVIS, parts.attention_of(model), up=False)
    entries += parts.control_entries(model, parts.COMPVIS_CONTROL)
    return NameMap(NameMap(entries).below(theirs=prefix).entries, ("[!c]*", "cond_stage_model.*") if prefix else ())


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The authors have no such file."""
    return {} if is_of(metadata, "controlnet") else None
