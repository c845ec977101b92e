"""MAE with its decoder as its authors name it, who built it from timm's blocks.

They distribute pickles; this reads what `safetensors.torch.save_file` makes of `checkpoint["model"]`. The files do not
say what the decoder predicts. Plain pixels are assumed, as of their checkpoints for pictures ("visualize"): for one
that learned normalised pixels load with `overrides={"normalize_pixels": True}`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.checkpoints.families import timm_vit
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import NameMap, NDArray, Shapes
from vit_jax.checkpoints.parts import mae as mae_parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models import mae

LIBRARY = "timm"
MODELS = "MAE with its decoder, in its authors' files"
WRITES = ()
COMPARED = "the same model in transformers' names"

_BLOCKS = timm_vit.block_names("decoder_blocks.{}.")


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family` and `mae_parts.around`."""
    if timm_vit.MAE_DECODER not in tensors:
        return None
    rest = {name: shape for name, shape in tensors.items() if not name.startswith(("decoder_", "mask_token"))}
    vit = timm_vit.describe(rest, sidecar)
    if vit is None:
        return None
    published = mae_parts.around(vit, tensors, "", _BLOCKS, JsonObject())
    return published if sidecar.config else dataclasses.replace(published, preprocess={**vit.preprocess, **IMAGENET})


def settle(published: Published, tensor: Callable[[str], NDArray]) -> Published:
    """See `Family`."""
    return mae_parts.settled(published, "pos_embed", tensor)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; `grid` in the layout says how many rows and columns of positions there are."""
    kwargs = complete(mae.build, kwargs)
    encoder = timm_vit.name_map({**kwargs["trunk"], "num_classes": 0}, layout)
    return NameMap([*encoder.entries, *mae_parts.decoder_entries(kwargs, "", _BLOCKS, layout["grid"])])


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`: there is no library that would read what was written."""
    return None
