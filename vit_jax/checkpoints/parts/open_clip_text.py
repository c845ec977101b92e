"""CLIP's text tower as open_clip names it, within Stable Diffusion 2, which reads the tokens behind its last layer but
one."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import NameMap, Shapes, norm, same
from vit_jax.checkpoints.parts import open_clip, towers
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.text_tower import build

MODELS = "text tower of open_clip"
WRITES = ()

_UNREAD = ("text_projection", "logit_scale", "attn_mask")
_LANDMARKS = {"token_embedding.weight", "positional_embedding", "ln_final.weight"}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not tensors.keys() >= _LANDMARKS:
        return None
    size, vocab_size = open_clip.text(tensors, JsonObject())
    if size["depth"] < 2:
        raise UserError("The text tower has one layer, of which the last but one is read", "Use another file")
    size["depth"] -= 1
    field, said = towers.clip_field(sidecar, vocab_size, size["max_length"])
    kwargs = {"vocab_size": vocab_size, "end_id": vocab_size - 1, **size, "activation": "gelu_exact"}
    kwargs["norm_epsilon"] = open_clip.EPSILON
    return Published("text_tower", kwargs, None, {"open_clip": True}, (), said, {"text": field})


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    text = build(**kwargs).text
    entries = [
        same("text/embedding", "token_embedding.weight"),
        same("text/pos_embedding", "positional_embedding"),
        *open_clip.block_entries(towers.text_arguments(text), "transformer.", "text"),
        *norm("text/norm", "ln_final"),
    ]
    return NameMap(entries, (f"transformer.resblocks.{text.depth}.*", *_UNREAD))
