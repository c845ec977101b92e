"""SigLIP as transformers names it, and SigLIP 2 of a fixed resolution: both towers, temperature and bias."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.config_keys import HF_CLIP_TEXT, HF_SIGLIP_WHOLE
from vit_jax.checkpoints.families import hf_siglip
from vit_jax.checkpoints.name_map import NameMap, Shapes, linear, same, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_clip as parts
from vit_jax.checkpoints.parts import hf_processor, towers
from vit_jax.checkpoints.parts import siglip as siglip_parts
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.siglip import build
from vit_jax.nn.two_towers import TwoTowers

LIBRARY = "transformers"
MODELS = "SigLIP and SigLIP 2 of a fixed resolution, both towers"
WRITES = ("siglip",)
COMPARED = "features of both towers, embeddings and logits of SiglipModel; files of ours read by transformers"

_TEXT, _VISION = "text_model.", "vision_model."


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. The image tower is what `hf_siglip` finds in the tensors under its name."""
    landmarks = ("logit_scale", "logit_bias", f"{_TEXT}head.weight", f"{_VISION}head.probe")
    if any(name not in tensors for name in landmarks):
        return None
    if len(tensors.get(f"{_VISION}embeddings.patch_embedding.weight", ())) != 4:  # NaFlex
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_SIGLIP_WHOLE, "siglip")
    said, of_text = config.object("vision_config"), config.object("text_config")
    hf_parts.check(of_text, HF_CLIP_TEXT, "siglip_text_model")
    alone = {name: shape for name, shape in tensors.items() if name.startswith(_VISION)}
    of_image = hf_siglip.describe(alone, Sidecar(said, preprocessor=sidecar.preprocessor))
    if of_image is None:
        return None
    text, vocab_size = parts.text_size(tensors, of_text, _TEXT, 12)
    style = parts.style(of_text, "gelu_pytorch_tanh", 1e-6)
    embed_dim = shape_of(tensors, f"{_TEXT}head.weight", 2)[0]
    of_text.must_agree("projection_size", embed_dim)
    kwargs = siglip_parts.whole(of_image.kwargs, text, style, vocab_size, embed_dim)
    field, lacking = siglip_parts.field(sidecar, vocab_size, text["max_length"])
    remarks += (*(remark for remark in of_image.remarks if remark not in remarks), *lacking)
    fields = {"image": {"name": "image"}, "text": field}
    task = {"name": "siglip", "kwargs": {}}
    layout = {"grid": of_image.layout["grid"], "stored": list(tensors["logit_scale"])}
    return Published("siglip", kwargs, of_image.preprocess, layout, (), remarks, fields, task)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `grid`, the rows and columns of positions, and the shape in which temperature and
    bias are `stored`."""
    model = build(**kwargs)
    image = hf_siglip.name_map(towers.vit_arguments(model.image_tower), {"prefix": _VISION, "grid": layout.get("grid")})
    stored = layout.get("stored", (1,))
    entries = [
        *image.entries,
        *towers.hf_text_entries(model.text, _TEXT),
        linear("text_projection/kernel", f"{_TEXT}head.weight"),
        same("text_projection/bias", f"{_TEXT}head.bias"),
        *(towers.scalar(name, name, stored) for name in ("logit_scale", "logit_bias")),
    ]
    return NameMap(entries, ("*.position_ids",))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`."""
    if not is_of(metadata, "siglip"):
        return None
    model, size = build(**metadata["model"]["kwargs"]), metadata["preprocess"]["image_size"]
    if not siglip_parts.is_siglip(model) or size[0] != size[1]:
        return None
    config = config_of(model, size)
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}


def config_of(model: TwoTowers, size: Sequence[int]) -> dict[str, Any]:
    """config.json of a model for images of `size` [h, w]."""
    vision = {"model_type": "siglip_vision_model", **parts.vision_config(model.image_tower, size)}
    text = {"model_type": "siglip_text_model", **parts.text_config(model.text), "projection_size": model.embed_dim}
    config = {"architectures": ["SiglipModel"], "model_type": "siglip", "dtype": "float32"}
    return config | {"vision_config": {**vision, "vision_use_head": True}, "text_config": text}
