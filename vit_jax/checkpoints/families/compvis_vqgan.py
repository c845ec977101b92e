"""VQGAN and latent diffusion's VQ autoencoders as their authors name them (github.com/CompVis/taming-transformers and
latent-diffusion).

They distribute pickles; this reads what `safetensors.torch.save_file` makes of their "state_dict".
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, Shapes, same, shape_of
from vit_jax.checkpoints.parts import autoencoder as parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.vqgan import build

LIBRARY = "compvis"
MODELS = "VQGAN, with Gumbel's codes too, and latent diffusion's VQ autoencoders, in their authors' names"
WRITES = ("vqgan",)
COMPARED = "the same model in diffusers' names; Gumbel's codes with NumPy"

_CODES, _GUMBEL = "quantize.embedding.weight", "quantize.embed.weight"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    del sidecar
    found = parts.first_stage(tensors)
    if found is None:
        return None
    prefix, own, remarks = found
    codes = next((name for name in (_CODES, _GUMBEL) if name in own), None)
    if codes is None:
        return None
    count, width = shape_of(own, codes, 2)
    latents = shape_of(own, "encoder.conv_out.weight", 4)[0]
    kwargs = {
        "num_codes": count, "latent_channels": latents, "code_width": width,
        "quantizer": "gumbel" if codes == _GUMBEL else "vector", **parts.layout_kwargs(own, parts.COMPVIS),
    }  # fmt: skip
    return Published("vqgan", kwargs, parts.pixels(), {"prefix": prefix}, (), remarks, task=parts.TASK)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout has the `prefix` of all names."""
    model = build(**complete(build, kwargs))
    entries = parts.layout_entries(model.layout, parts.COMPVIS) + parts.moment_entries(True)
    if model.quantizer_kind == "gumbel":
        logits = "quantizer/logits"
        entries += [parts.one_by_one(f"{logits}/kernel", "quantize.proj.weight")]
        entries += [same(f"{logits}/bias", "quantize.proj.bias"), same("quantizer/codes", _GUMBEL)]
    else:
        entries.append(same("quantizer/codebook/codes", _CODES))
    return parts.compvis_map(entries, layout.get("prefix", ""))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The authors have no such file."""
    if not is_of(metadata, "vqgan"):
        return None
    model = build(**metadata["model"]["kwargs"])
    return {} if model.has_decoder and parts.has_plain_codes(model) else None
