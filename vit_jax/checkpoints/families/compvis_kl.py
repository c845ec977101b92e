"""The autoencoders of latent diffusion as their authors name them (github.com/CompVis/latent-diffusion), and MAR's.

They distribute pickles; this reads what `safetensors.torch.save_file` makes of their "state_dict", or MAR's "model". Of
a whole latent diffusion model the autoencoder is read.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vit_jax.checkpoints.name_map import NameMap, NDArray, Shapes, shape_of
from vit_jax.checkpoints.parts import autoencoder as parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.kl_autoencoder import build

LIBRARY = "compvis"
MODELS = "Latent diffusion's KL autoencoders, in their authors' names, and MAR's KL-16"
WRITES = ("kl_autoencoder",)
COMPARED = "the same model in diffusers' names"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    del sidecar
    found = parts.first_stage(tensors)
    if found is None:
        return None
    prefix, own, remarks = found
    if any(name.startswith("quantize.") for name in own):
        return None
    kwargs = {
        "latent_width": shape_of(own, "decoder.conv_in.weight", 4)[1], **parts.layout_kwargs(own, parts.COMPVIS)
    }  # fmt: skip
    if "quant_conv.weight" not in own:
        kwargs["convs"] = False
    layout = {"prefix": prefix, "scaled": bool(prefix) and tensors.get(parts.SCALE) in ((), (1,))}
    if not layout["scaled"]:
        kwargs["scale"], said = parts.assumed_scale(kwargs)
        remarks += said
    return Published("kl_autoencoder", kwargs, parts.pixels(), layout, (), remarks, task=parts.TASK)


def settle(published: Published, tensor: Callable[[str], NDArray]) -> Published:
    """See `vit_jax.checkpoints.published.Family`: the scale of the latents is a tensor beside a first stage."""
    if not published.layout["scaled"]:
        return published
    scale = float(str(np.float32(tensor(parts.SCALE).item())))  # .18215, and not the nearest float32
    return dataclasses.replace(published, kwargs={**published.kwargs, "scale": scale})


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout has the `prefix` of all names."""
    model = build(**complete(build, kwargs))
    entries = parts.layout_entries(model.layout, parts.COMPVIS) + parts.moment_entries(model.convs)
    return parts.compvis_map(entries, layout.get("prefix", ""))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The authors have no such file."""
    return {} if is_of(metadata, "kl_autoencoder") else None
