"""A ViT beside a BERT as transformers names them in a VisionTextDualEncoderModel (LiT)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_DUAL_ENCODER
from vit_jax.checkpoints.families import hf_bert, hf_vit
from vit_jax.checkpoints.name_map import NameMap, NDArray, Shapes, shape_of
from vit_jax.checkpoints.parts import clip as clip_parts
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import towers
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.two_towers import build

LIBRARY = "transformers"
MODELS = "VisionTextDualEncoder of a ViT and a BERT (LiT)"
WRITES = ("two_towers",)
COMPARED = "embeddings and logits of VisionTextDualEncoderModel; files of ours read by transformers"

_IMAGE, _TEXT = "vision_model.", "text_model."


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. Each tower is what its own family finds in the tensors under its name."""
    landmarks = ("logit_scale", "visual_projection.weight", "text_projection.weight", f"{_TEXT}pooler.dense.weight")
    if f"{_IMAGE}pooler.dense.weight" not in tensors or any(name not in tensors for name in landmarks):
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_DUAL_ENCODER, "vision-text-dual-encoder")
    of_image = hf_vit.describe(
        _under(_IMAGE, tensors), Sidecar(config.object("vision_config"), preprocessor=sidecar.preprocessor)
    )
    of_text = hf_bert.describe(
        _under(_TEXT, tensors), dataclasses.replace(sidecar, config=config.object("text_config"))
    )
    if of_image is None or of_text is None:
        return None
    embed_dim = shape_of(tensors, "visual_projection.weight", 2)[0]
    config.must_agree("projection_dim", embed_dim)
    image, text = dict(of_image.kwargs), dict(of_text.kwargs)
    del image["num_classes"]
    kwargs = {
        "vocab_size": text.pop("vocab_size"),
        "image": {"name": "vit", **image},
        "text": {"name": "bert", **text},
        "embed_dim": embed_dim,
    }
    layout = {"image": dict(of_image.layout), "text": dict(of_text.layout)}
    fields = {"image": {"name": "image"}, **of_text.fields}
    said = [remark for tower in (of_image, of_text) for remark in tower.remarks if remark not in remarks]
    task = {"name": "clip", "kwargs": {}}
    return Published("two_towers", kwargs, of_image.preprocess, layout, (), (*remarks, *said), fields, task)


def settle(published: Published, tensor: Callable[[str], NDArray]) -> Published:
    """See `Family`."""
    return clip_parts.settled(published, tensor)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds those of the `image` tower and of the `text` tower."""
    image, text = _towers(kwargs)
    maps = (
        (_IMAGE, hf_vit.name_map(image, layout.get("image", {"prefix": ""}))),
        (_TEXT, hf_bert.name_map(text, layout.get("text", {"prefix": ""}))),
    )
    entries, ignored = [], []
    for prefix, names in maps:
        entries += [dataclasses.replace(e, theirs=tuple(prefix + name for name in e.theirs)) for e in names.entries]
        ignored += [prefix + pattern for pattern in names.ignored]
    entries += towers.projections(build(**kwargs), "visual_projection", "text_projection")
    entries.append(towers.scalar("logit_scale", "logit_scale", ()))
    return NameMap(entries, tuple(ignored))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`."""
    if not is_of(metadata, "two_towers"):
        return None
    kwargs = metadata["model"]["kwargs"]
    model = build(**kwargs)
    if (kwargs["image"]["name"], kwargs["text"]["name"]) != ("vit", "bert"):
        return None
    image, text = _towers(kwargs)
    plain = model.project_image == model.project_text == "plain" and model.logit_bias_init is None
    pooled = image.get("representation_size") == model.encoder.width and text.get("pooler", True)
    if not plain or not pooled or text.get("masked_language") or text.get("next_sentence"):
        return None
    alone = {**metadata, "labels": []}
    files = hf_vit.sidecar({**alone, "model": {"name": "vit", "kwargs": image}})
    of_text = hf_bert.sidecar({**alone, "model": {"name": "bert", "kwargs": text}})
    if files is None or of_text is None or set(of_text) != {"config.json"}:
        return None
    config = {
        "architectures": ["VisionTextDualEncoderModel"],
        "model_type": "vision-text-dual-encoder",
        "projection_dim": model.embed_dim,
        "dtype": "float32",
        "vision_config": files["config.json"],
        "text_config": of_text["config.json"],
    }
    return {**files, "config.json": config}


def _towers(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of both towers by themselves."""
    image, text = ({k: v for k, v in kwargs[side].items() if k != "name"} for side in ("image", "text"))
    return {"num_classes": 0, **image}, {"vocab_size": kwargs["vocab_size"], **text}


def _under(prefix: str, tensors: Shapes) -> dict[str, tuple[int, ...]]:
    """The tensors of a tower, by their names in it."""
    return {name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}
