"""Hybrids in Google's npz files: names of the ViT, and beside them those of the ResNet."""

import re
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.families import google_vit
from vit_jax.checkpoints.families.google_bit import v1_names
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import google as google_parts
from vit_jax.checkpoints.parts.hybrid import hybrid_size, reduction
from vit_jax.checkpoints.parts.resnet import stage_sizes
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.hybrid import parse_variant, vit_arguments

LIBRARY = "google"
MODELS = "R+ViT hybrids"
WRITES = ("hybrid",)
COMPARED = "timm, which reads such files too, with its epsilons; the original's form with NumPy"

_STYLE = {
    "padding": "same",
    "stem_pool_padding": "lowest",
    "weight_epsilon": 1e-5,
    "weight_epsilon_in": "deviation",
    "num_groups": 32,
    "group_norm_epsilon": 1e-6,
}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    prefix = google_parts.prefix_of(tensors, "conv_root/kernel")
    if prefix is None:
        return None
    stem = {name for name in tensors if re.match(rf"{prefix}(conv_root|gn_root|block\d+)/", name)}
    vit = google_vit.describe({name: shape for name, shape in tensors.items() if name not in stem}, Sidecar())
    if vit is None:
        return None
    sizes = stage_sizes(stem, rf"{prefix}block(\d+)/unit(\d+)/conv1/kernel")
    kwargs = hybrid_size(vit.kwargs, sizes, shape_of(tensors, f"{prefix}conv_root/kernel", 4)[3])
    if kwargs is None:
        return None
    # Fixed positions do not say how many there are.
    has_grid = kwargs.get("posemb", "learn") == "learn"
    scale = reduction(sizes) if has_grid else 1
    layout = {**vit.layout, "group_norm_axes": google_parts.axes_of(tensors, f"{prefix}gn_root/scale")}
    size = [side * scale for side in vit.preprocess["image_size"]]
    return google_parts.published("hybrid", kwargs | _STYLE, size, layout, sidecar)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout is google_vit's, and `group_norm_axes`."""
    vit = google_vit.name_map(vit_arguments(kwargs), layout)
    return NameMap([*stem_entries(kwargs, layout), *vit.entries], vit.ignored)


def stem_entries(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> list[Entry]:
    """The ResNet's entries alone."""
    sizes = kwargs.get("stage_sizes")
    sizes = parse_variant(kwargs["variant"])[0].stage_sizes if sizes is None else sizes
    names = v1_names(layout.get("prefix", ""), layout.get("group_norm_axes", 1))
    return names.entries("encoder/stem", sizes, preactivation=False)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "hybrid"):
        return None
    vit = {**metadata, "model": {"name": "vit", "kwargs": vit_arguments(metadata["model"]["kwargs"])}}
    return None if google_vit.sidecar(vit) is None else google_parts.config(metadata)
