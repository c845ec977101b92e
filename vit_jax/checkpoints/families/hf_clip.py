"""CLIP as transformers names it: both towers, the projections and the temperature."""

from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_CLIP, HF_CLIP_TEXT, HF_CLIP_VISION
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import NameMap, NDArray, Shapes, shape_of
from vit_jax.checkpoints.parts import clip as clip_parts
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_clip as parts
from vit_jax.checkpoints.parts import hf_processor, towers
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.clip import build

LIBRARY = "transformers"
MODELS = "CLIP, both towers"
WRITES = ("clip",)
COMPARED = "tokens and features of both towers, embeddings and logits of CLIPModel; files of ours read by transformers"

_TEXT, _VISION = "text_model.", "vision_model."


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. The vision tower alone is `hf_clip_vision`'s."""
    landmarks = ("logit_scale", "visual_projection.weight", f"{_TEXT}final_layer_norm.weight")
    if f"{_VISION}pre_layrnorm.weight" not in tensors or any(name not in tensors for name in landmarks):
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_CLIP, "clip")
    of_text, of_image = (_tower(config, name) for name in ("text", "vision"))
    hf_parts.check(of_text, HF_CLIP_TEXT, "clip_text_model")
    hf_parts.check(of_image, HF_CLIP_VISION, "clip_vision_model")
    image, image_style, grid, image_size = parts.vision(tensors, of_image, _VISION)
    text, text_style, vocab_size = parts.text(tensors, of_text, _TEXT)
    embed_dim = shape_of(tensors, "visual_projection.weight", 2)[0]
    config.must_agree("projection_dim", embed_dim)
    kwargs = clip_parts.whole(image, text, embed_dim, vocab_size, image_style, text_style)
    end = of_text.integer("eos_token_id", 49407)
    # Files from before transformers 4.31 say 2, and mean the largest id of each row.
    kwargs["end_id"] = vocab_size - 1 if end == 2 else end
    ends = of_text.integer("bos_token_id", vocab_size - 2), kwargs["end_id"]
    field, said = towers.clip_field(sidecar, vocab_size, text["max_length"], ends)
    preprocess = parts.pixels(sidecar, image_size, grid)
    remarks += hf_processor.remarks(sidecar.preprocessor, image_size, "CLIP", image_size[0] // grid[0]) + said
    fields = {"image": {"name": "image"}, "text": field}
    task = {"name": "clip", "kwargs": {}, "given": ["end_id"]}
    return Published(
        "clip", {**kwargs, "posemb_resize": "bicubic"}, preprocess, {"grid": grid}, (), remarks, fields, task
    )


def settle(published: Published, tensor: Callable[[str], NDArray]) -> Published:
    """See `Family`."""
    return clip_parts.settled(published, tensor)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `grid`, the rows and columns of positions."""
    model = build(**kwargs)
    entries = parts.vision_entries(model.image_tower, _VISION, layout.get("grid"))
    entries += towers.hf_text_entries(model.text, _TEXT)
    entries += towers.projections(model, "visual_projection", "text_projection")
    entries.append(towers.scalar("logit_scale", "logit_scale", ()))
    return NameMap(entries, ("*.position_ids",))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`."""
    if not is_of(metadata, "clip"):
        return None
    model, size = build(**metadata["model"]["kwargs"]), metadata["preprocess"]["image_size"]
    fits = (
        towers.is_clip_vit(model.image_tower)
        and towers.is_clip_text(model.text_tower)
        and model.text_tower.end_id is not None
        and model.project_image == model.project_text == "plain"
        and size[0] == size[1]
    )
    if not fits:
        return None
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model.embed_dim,
        "dtype": "float32",
        "vision_config": {"model_type": "clip_vision_model", **parts.vision_config(model.image_tower, size)},
        "text_config": {
            "model_type": "clip_text_model",
            **parts.text_config(model.text),
            "eos_token_id": model.text_tower.end_id,
        },
    }
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}


def _tower(config: JsonObject, name: str) -> JsonObject:
    """The config of a tower; of `text_config` and the `text_config_dict` beside it in older files the latter counts."""
    return config.object(f"{name}_config_dict") or config.object(f"{name}_config")
