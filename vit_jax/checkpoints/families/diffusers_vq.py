"""VQGAN and latent diffusion's VQ autoencoders as diffusers names them (`VQModel`)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import DIFFUSERS_VQ
from vit_jax.checkpoints.name_map import NameMap, Shapes, same, shape_of
from vit_jax.checkpoints.parts import autoencoder as parts
from vit_jax.checkpoints.parts import diffusers
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.vqgan import build

LIBRARY = "diffusers"
MODELS = "VQModel"
WRITES = ("vqgan",)
COMPARED = "latents, indices and images of diffusers' own models; files of ours read by diffusers"

_CODES = "quantize.embedding.weight"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if _CODES not in tensors or not parts.is_layout(tensors, parts.DIFFUSERS):
        return None
    config, names = sidecar.config, parts.diffusers_names(tensors)
    diffusers.check(config, DIFFUSERS_VQ, "VQModel")
    codes, width = shape_of(tensors, _CODES, 2)
    latents = shape_of(tensors, "encoder.conv_out.weight", 4)[0]
    for key, found in {"num_vq_embeddings": codes, "latent_channels": latents, "vq_embed_dim": width}.items():
        config.must_agree(key, found)
    kwargs = {"num_codes": codes, "latent_channels": latents, "code_width": width, "quantizer": "vector"}
    kwargs |= diffusers.layout_kwargs(tensors, names, config)
    layout = {"old": names == parts.OLD_DIFFUSERS}
    return Published("vqgan", kwargs, diffusers.pixels(config), layout, task=parts.TASK)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout says whether attention has its `old` names."""
    model = build(**complete(build, kwargs))
    names = parts.OLD_DIFFUSERS if layout.get("old") else parts.DIFFUSERS
    return NameMap([
        *parts.layout_entries(model.layout, names), *parts.moment_entries(True),
        same("quantizer/codebook/codes", _CODES),
    ])  # fmt: skip


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "vqgan"):
        return None
    model = build(**metadata["model"]["kwargs"])
    vector = model.quantizer_kind == "vector" and parts.has_plain_codes(model)
    if not (vector and model.has_decoder and diffusers.is_plain(model.layout)):
        return None
    config = {
        "_class_name": "VQModel",
        **diffusers.config_of(model.layout, model.latent_channels, metadata["preprocess"]),
        "num_vq_embeddings": model.vocab_size,
        "vq_embed_dim": model.latent_width,
        "norm_type": "group",
    }
    return {"config.json": config}
