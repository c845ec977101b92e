"""U-Nets that read a text as their authors name them (github.com/CompVis/stable-diffusion), alone in a file.

They distribute pickles, of the whole model; this reads what `safetensors.torch.save_file` makes of their "state_dict".
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import conditional_unet as parts
from vit_jax.checkpoints.parts import unet
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.conditional_unet import build

LIBRARY = "compvis"
MODELS = "The U-Net of Stable Diffusion 1 and 2, in its authors' names"
WRITES = ("conditional_unet",)
COMPARED = "diffusers' conversion of such files"

PREFIX = "model.diffusion_model."


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    del sidecar
    found = parts.compvis_part(tensors, (PREFIX, ""))
    if found is None or "out.2.weight" not in found[1]:
        return None
    prefix, own = found
    kwargs, remarks = parts.compvis_kwargs(own)
    kwargs["outputs"] = shape_of(own, "out.2.weight", 4)[0]
    task = {"name": "features", "kwargs": {}}  # of latents, whose autoencoder is elsewhere
    return Published("conditional_unet", kwargs, None, {"prefix": prefix}, (), remarks, task=task)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout has the `prefix` of all names, by default the whole
    model's."""
    model, prefix = build(**complete(build, kwargs)), layout.get("prefix", PREFIX)
    names = NameMap(unet.levels_entries(model, unet.COMPVIS, parts.attention_of(model))).below(theirs=prefix)
    # Averages, and what the schedule of the noise is computed to.
    return NameMap(names.entries, ("[!m]*", "model_ema.*") if prefix else ())


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The authors have no such file."""
    if not is_of(metadata, "conditional_unet") or metadata["model"]["kwargs"].get("num_classes"):
        return None
    return {}
