"""Tiny autoencoders as their author names them (github.com/madebyollin/taesd).

The author publishes encoder and decoder as pickles, one each; this reads what `safetensors.torch.save_file` makes of
both together, with "encoder." and "decoder." before their names, as the author's `TAESD` has them.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import tiny_autoencoder as parts
from vit_jax.checkpoints.parts.autoencoder import TASK, pixels
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.tiny_autoencoder import build

LIBRARY = "taesd"
MODELS = "TAESD, TAEF1, TAEF2: tiny autoencoders"
WRITES = ("tiny_autoencoder",)
COMPARED = "latents and images of the author's TAEF2 with its published weights; the others as diffusers computes them"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    del sidecar
    kwargs = parts.tiny_kwargs(tensors, parts.AUTHORS)
    return kwargs and Published("tiny_autoencoder", kwargs, pixels(), task=TASK)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    return NameMap(parts.tiny_entries(build(**kwargs), parts.AUTHORS))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The author has no such file."""
    return {} if is_of(metadata, "tiny_autoencoder") else None
