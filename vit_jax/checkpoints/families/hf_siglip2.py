"""SigLIP 2 of any aspect ratio (NaFlex) as transformers names it: `hf_siglip_pair` with patches in rows."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_SIGLIP_WHOLE
from vit_jax.checkpoints.families import hf_siglip_pair
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import NameMap, Shapes, linear
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import siglip as siglip_parts
from vit_jax.checkpoints.parts.sidecars import INCEPTION, in_pixels, in_unit, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.naflex import NaFlex
from vit_jax.models.siglip import build

LIBRARY = "transformers"
MODELS = "SigLIP 2 of any aspect ratio (NaFlex), both towers"
WRITES = ("siglip",)
COMPARED = "features of both towers, embeddings and logits of Siglip2Model; files of ours read by transformers"

_PATCHES = "vision_model.embeddings.patch_embedding.weight"
_TOWERS = ("vision_config", "text_config")
_MOST = 256  # patches of an image, where nothing says how many


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. But for the patches it is a SigLIP of the square image whose patches the positions are for."""
    width, pixels = (*tensors.get(_PATCHES, ()), 0, 0)[:2]
    side = math.isqrt(pixels // 3)
    if len(tensors.get(_PATCHES, ())) != 2 or not side or 3 * side**2 != pixels:
        return None
    config, said = sidecar.config, sidecar.preprocessor
    hf_parts.check(config, HF_SIGLIP_WHOLE, "siglip2")
    vision = config.object("vision_config")
    plain = {name: _without(config.object(name), "model_type", "num_patches") for name in _TOWERS if config}
    square = dataclasses.replace(sidecar, config=_without(config, "model_type") | plain, preprocessor=JsonObject())
    found = hf_siglip_pair.describe({**tensors, _PATCHES: (width, 3, side, side)}, square)
    if found is None:
        return None
    grid = found.layout["grid"]
    vision.must_agree("num_patches", math.prod(grid))
    kwargs = {name: value for name, value in found.kwargs.items() if name != "posemb_resize"}
    colours = {name: said.numbers(f"image_{name}", 3) for name in ("mean", "std")}
    preprocess = {
        "image_size": [place * side for place in grid], "resize": "squash", "interpolation": "bilinear", **INCEPTION,
        **{name: in_pixels(values) for name, values in colours.items() if values},
    }  # fmt: skip
    most = said.integer("max_num_patches", _MOST, at_least=1)
    image = {"name": "naflex", "patch_size": side, "max_patches": most}
    remarks = tuple(r for r in found.remarks if said.get("image_mean") is None or "preprocessor_config" not in r)
    return dataclasses.replace(
        found,
        kwargs={**kwargs, "naflex": True, "grid": grid[0]},
        preprocess=preprocess,
        fields={**found.fields, "image": image},
        remarks=remarks,
    )


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `hf_siglip_pair`; patches there are rows of values in the order (row, column, channel)."""
    encoder = build(**kwargs).encoder
    names = hf_siglip_pair.name_map(kwargs, {**layout, "grid": list(encoder.grid_size)})
    patches = linear("encoder/embedding/kernel", _PATCHES, (*encoder.patch_size, 3, encoder.width))
    return NameMap([patches if entry.theirs == (_PATCHES,) else entry for entry in names.entries], names.ignored)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`."""
    if not is_of(metadata, "siglip"):
        return None
    model = build(**metadata["model"]["kwargs"])
    if not siglip_parts.is_siglip(model, NaFlex):
        return None
    preprocess, encoder = metadata["preprocess"], model.encoder
    config = hf_siglip_pair.config_of(model, preprocess["image_size"])
    vision = {key: value for key, value in config["vision_config"].items() if key != "image_size"}
    vision |= {"model_type": "siglip2_vision_model", "num_patches": math.prod(encoder.grid_size)}
    text = {**config["text_config"], "model_type": "siglip2_text_model"}
    config |= {"architectures": ["Siglip2Model"], "model_type": "siglip2"}
    field = (metadata.get("fields") or {}).get("image") or {}
    processor = {
        "image_processor_type": "Siglip2ImageProcessor",
        "do_resize": True,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": in_unit(preprocess, "mean"),
        "image_std": in_unit(preprocess, "std"),
        "patch_size": encoder.patch_size[0],
        "max_num_patches": field.get("max_patches", _MOST),
    }
    files = {"config.json": config | {"vision_config": vision, "text_config": text}}
    return files | {"preprocessor_config.json": processor}


def _without(config: JsonObject, *names: str) -> JsonObject:
    return JsonObject({name: value for name, value in config.items() if name not in names}, config.where)
