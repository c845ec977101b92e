"""CLIP's text tower alone as transformers names it, which Stable Diffusion reads: with `text_model.` before all names
as in published files, or without, as transformers 5 writes it."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_CLIP_TEXT
from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_clip as parts
from vit_jax.checkpoints.parts import towers
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.text_tower import build

LIBRARY = "transformers"
MODELS = "CLIP text tower"
WRITES = ("text_tower",)
COMPARED = "tokens and features of CLIPTextModel, under both names; files of ours read by transformers"

_PREFIX = "text_model."
_END = "<|endoftext|>"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. A projection into the space of images is left unread: features are what it would see."""
    prefix = hf_parts.prefix_of(tensors, (_PREFIX, ""), "final_layer_norm.weight")
    if prefix is None or "logit_scale" in tensors or f"{prefix}embeddings.token_embedding.weight" not in tensors:
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_CLIP_TEXT, "clip_text_model")
    text, style, vocab_size = parts.text(tensors, config, prefix)
    if "text_projection.weight" in tensors:
        remarks += ("the projection into the space of images is left out: features are what it would see",)
    end = config.integer("eos_token_id", 49407)
    # Files from before transformers 4.31 say 2, and mean the largest id of each row.
    end = vocab_size - 1 if end == 2 else end
    ends = config.integer("bos_token_id", vocab_size - 2), end
    field, said = towers.clip_field(sidecar, vocab_size, text["max_length"], ends)
    if _padding(sidecar) == _END:
        field["pad"] = "end"
    kwargs = {"vocab_size": vocab_size, "end_id": end, **text, **style}
    return Published("text_tower", kwargs, None, {"prefix": prefix}, (), remarks + said, {"text": field})


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds the `prefix` of all names, by default that of published files."""
    entries = towers.hf_text_entries(build(**kwargs).text, layout.get("prefix", _PREFIX))
    return NameMap(entries, ("*position_ids", "text_projection.weight"))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`."""
    if not is_of(metadata, "text_tower"):
        return None
    tower = build(**metadata["model"]["kwargs"])
    if not towers.is_clip_text(tower) or tower.end_id is None:
        return None
    tokenizer = (metadata.get("fields") or {}).get("text", {}).get("tokenizer", {})
    start = {"bos_token_id": tokenizer["bos_id"]} if "bos_id" in tokenizer else {}
    config = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "dtype": "float32"}
    return {"config.json": config | parts.text_config(tower.text) | {"eos_token_id": tower.end_id} | start}


def _padding(sidecar: Sidecar) -> str:
    """The token that fills a row: special_tokens_map.json counts before tokenizer_config.json, and the end is the
    default of transformers' CLIPTokenizer."""
    for said in (sidecar.special_tokens, sidecar.tokenizer):
        if said.get("pad_token") is not None:
            token = said["pad_token"]
            return said.object("pad_token").text("content") if isinstance(token, Mapping) else said.text("pad_token")
    return _END
