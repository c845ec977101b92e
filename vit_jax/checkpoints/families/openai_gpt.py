"""GPT-1 as transformers names it."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_GPT
from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import gpt as parts
from vit_jax.checkpoints.published import Published, Sidecar

LIBRARY = "transformers"
MODELS = "OpenAI GPT (GPT-1)"
WRITES = ("gpt",)
COMPARED = "tokens and logits of OpenAIGPTLMHeadModel; files of ours read by transformers"

_WORDS, _PLACES = "tokens_embed", "positions_embed"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`."""
    return parts.described(tensors, sidecar, HF_GPT, "openai-gpt", _WORDS, _PLACES, first=True)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.parts.gpt.named`."""
    return parts.named(kwargs, layout, _WORDS, _PLACES)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`; its MLPs are four times as wide as the model."""
    config = parts.config_of(metadata, "openai-gpt", "OpenAIGPTLMHeadModel", first=True)
    if config is None:
        return None
    size = parts.size_of(metadata["model"]["kwargs"])
    # The exact GELU has no name there: "gelu" is the approximation.
    named = {"gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}.get(size["activation"])
    if named is None or size["mlp_dim"] != 4 * size["width"]:
        return None
    return {"config.json": {**config, "afn": named}}
