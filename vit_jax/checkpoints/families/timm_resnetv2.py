"""BiT as timm names it (`timm.models.resnetv2`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.checkpoints.config_keys import TIMM_RESNETV2
from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, same, shape_of, transpose
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.resnet import bit_size, differs, stage_sizes, timm_names
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.bit import build, parse_variant

LIBRARY = "timm"
MODELS = "BiT"
WRITES = ("bit",)
COMPARED = "last map and logits of timm's own models at three resolutions; files of ours read by timm"

# How every resnetv2_*_bit of timm computes.
_STYLE = {
    "preactivation": True,
    "padding": "fixed",
    "stem_pool_padding": "zeros",
    "weight_epsilon": 1e-8,
    "weight_epsilon_in": "variance",
    "num_groups": 32,
    "group_norm_epsilon": 1e-5,
}
# Architectures by their units, and the factor by which they widen what `channels` and `stem_chs` say.
_ARCHITECTURES = {
    (3, 4, 6, 3): ("resnetv2_50x1_bit", 1),
    (3, 4, 23, 3): ("resnetv2_101x1_bit", 1),
    (3, 8, 36, 3): ("resnetv2_152x2_bit", 2),
}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    landmarks = ("stem.conv.weight", "norm.weight", "stages.0.blocks.0.norm1.weight", "stages.0.blocks.0.conv3.weight")
    # timm's other ResNetV2s have batch norm and plain convolutions.
    if any(name not in tensors for name in landmarks) or any(name.endswith(".running_mean") for name in tensors):
        return None
    timm_parts.architecture(sidecar, r"resnetv2_\d+x\d+_bit")
    remarks = timm_parts.check(sidecar, TIMM_RESNETV2, "BiT's padding, stride and ReLU, and pixels")
    sizes = stage_sizes(tensors, r"stages\.(\d+)\.blocks\.(\d+)\.conv1\.weight")
    kwargs = bit_size(sizes, shape_of(tensors, "stem.conv.weight", 4)[0]) | _STYLE
    kwargs["num_classes"] = shape_of(tensors, "head.fc.bias", 1, (0,))[0]
    size = timm_parts.image_size(sidecar) or [224, 224]
    return Published(
        model="bit",
        kwargs=kwargs,
        preprocess=timm_parts.preprocess(sidecar, size, crop_pct=0.875, interpolation="bilinear"),
        labels=timm_parts.labels(sidecar, kwargs["num_classes"]),
        remarks=remarks,
    )


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    args = complete(build, kwargs)
    sizes = args["stage_sizes"] or parse_variant(args["variant"])[0]
    entries = timm_names().entries("encoder", sizes, args["preactivation"])
    if args["num_classes"]:
        entries += [_head(), same("head/bias", "head.fc.bias")]
    return NameMap(entries)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "bit"):
        return None
    args = complete(build, metadata["model"]["kwargs"])
    sizes, width = parse_variant(args["variant"])
    sizes, width = tuple(args["stage_sizes"] or sizes), args["width"] or width
    if differs(args, _STYLE) or sizes not in _ARCHITECTURES:
        return None
    architecture, factor = _ARCHITECTURES[sizes]
    if width % (32 * factor):
        return None
    stem = width // factor
    model_args = {} if stem == 64 else {"stem_chs": stem, "channels": [4 * stem * 2**i for i in range(4)]}
    further = {"first_conv": "stem.conv", "classifier": "head.fc", "fixed_input_size": False}
    return timm_parts.config(architecture, metadata, model_args, further)


def _head() -> Entry:
    """A linear head that timm keeps as a 1x1 convolution [K, F, 1, 1]."""

    def read(w: NDArray) -> list[NDArray]:
        return [transpose(np.squeeze(w, (2, 3)))]

    def write(kernel: NDArray) -> list[NDArray]:
        return [transpose(kernel)[:, :, None, None]]

    return Entry(("head/kernel",), ("head.fc.weight",), read, write)
