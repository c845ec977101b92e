"""CLIP's vision tower alone as transformers names it, with or without the projection into the space of texts."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_CLIP_VISION
from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_clip as parts
from vit_jax.checkpoints.parts import hf_processor, towers
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.vit import build

LIBRARY = "transformers"
MODELS = "CLIP vision tower"
WRITES = ("vit",)
COMPARED = "features of CLIPVisionModel, with and without its projection; files of ours read by transformers"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. The projection is left unread: features are what it would see."""
    prefix = hf_parts.prefix_of(tensors, ("vision_model.", ""), "pre_layrnorm.weight")
    if prefix is None or "logit_scale" in tensors or f"{prefix}embeddings.class_embedding" not in tensors:
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_CLIP_VISION, "clip_vision_model")
    size, style, grid, image_size = parts.vision(tensors, config, prefix)
    if "visual_projection.weight" in tensors:
        remarks += ("the projection into the space of texts is left out: features are what it would see",)
    remarks += hf_processor.remarks(sidecar.preprocessor, image_size, "CLIP", image_size[0] // grid[0])
    preprocess = parts.pixels(sidecar, image_size, grid)
    layout = {"prefix": prefix, "grid": grid}
    return Published("vit", parts.tower_arguments(size, style), preprocess, layout, (), remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `prefix` and `grid`, the rows and columns of positions."""
    entries = parts.vision_entries(build(**kwargs), layout.get("prefix", ""), layout.get("grid"))
    return NameMap(entries, ("*position_ids", "visual_projection.weight"))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`. transformers has no classifier over the class token of this tower."""
    if not is_of(metadata, "vit") or metadata["model"]["kwargs"]["num_classes"]:
        return None
    tower, size = build(**metadata["model"]["kwargs"]), metadata["preprocess"]["image_size"]
    if not towers.is_clip_vit(tower) or size[0] != size[1]:
        return None
    config = {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", "dtype": "float32"}
    files = {"config.json": config | parts.vision_config(tower, size)}
    return files | {"preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}
