"""Latent diffusion's autoencoders as diffusers names them (`AutoencoderKL`): Stable Diffusion's, SD3's, FLUX.1's."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import DIFFUSERS_KL
from vit_jax.checkpoints.name_map import NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import autoencoder as parts
from vit_jax.checkpoints.parts import diffusers
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.kl_autoencoder import build

LIBRARY = "diffusers"
MODELS = "AutoencoderKL"
WRITES = ("kl_autoencoder",)
COMPARED = "moments and images of diffusers' own models, both namings of attention; files of ours read by diffusers"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if "quantize.embedding.weight" in tensors or not parts.is_layout(tensors, parts.DIFFUSERS):
        return None
    config, names = sidecar.config, parts.diffusers_names(tensors)
    diffusers.check(config, DIFFUSERS_KL, "AutoencoderKL")
    width = shape_of(tensors, "decoder.conv_in.weight", 4)[1]
    config.must_agree("latent_channels", width)
    kwargs = {"latent_width": width, **diffusers.layout_kwargs(tensors, names, config)}
    if "quant_conv.weight" not in tensors:
        kwargs["convs"] = False
    remarks: tuple[str, ...] = ()
    if config:
        kwargs["scale"] = config.number("scaling_factor", 0.18215, above=0)
        if shift := config.number("shift_factor", 0.0):
            kwargs["shift"] = shift
    else:
        scale, remarks = parts.assumed_scale(kwargs)
        kwargs["scale"] = scale
    layout = {"old": names == parts.OLD_DIFFUSERS}
    return Published("kl_autoencoder", kwargs, diffusers.pixels(config), layout, (), remarks, task=parts.TASK)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout says whether attention has its `old` names."""
    model = build(**complete(build, kwargs))
    names = parts.OLD_DIFFUSERS if layout.get("old") else parts.DIFFUSERS
    return NameMap([*parts.layout_entries(model.layout, names), *parts.moment_entries(model.convs)])


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "kl_autoencoder"):
        return None
    model = build(**metadata["model"]["kwargs"])
    if model.scale is None or not diffusers.is_plain(model.layout):
        return None
    config = {
        "_class_name": "AutoencoderKL",
        **diffusers.config_of(model.layout, model.latent_width, metadata["preprocess"]),
        "scaling_factor": model.scale,
        "shift_factor": model.shift or None,
        "use_quant_conv": model.convs,
        "use_post_quant_conv": model.convs,
    }
    return {"config.json": config}
