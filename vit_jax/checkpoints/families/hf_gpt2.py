"""GPT-2, and what else has its architecture, as transformers names it."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_GPT2
from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import gpt as parts
from vit_jax.checkpoints.parts.text import activation_name
from vit_jax.checkpoints.published import Published, Sidecar

LIBRARY = "transformers"
MODELS = "GPT-2"
WRITES = ("gpt",)
COMPARED = "tokens and logits of GPT2LMHeadModel; files of ours read by transformers"

_WORDS, _PLACES = "wte", "wpe"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`."""
    return parts.described(tensors, sidecar, HF_GPT2, "gpt2", _WORDS, _PLACES, first=False)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.parts.gpt.named`."""
    return parts.named(kwargs, layout, _WORDS, _PLACES)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`."""
    config = parts.config_of(metadata, "gpt2", "GPT2LMHeadModel", first=False)
    if config is None:
        return None
    size = parts.size_of(metadata["model"]["kwargs"])
    return {
        "config.json": {
            **config, "activation_function": activation_name(size["activation"]), "n_inner": size["mlp_dim"],
        }
    }  # fmt: skip
