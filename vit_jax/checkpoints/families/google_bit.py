"""ResNets as Google's npz files name them: the BiT of the paper, and big_vision's BiT and ResNet-v1 with group norm."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, same, shape_of
from vit_jax.checkpoints.parts import google as google_parts
from vit_jax.checkpoints.parts.resnet import ResNetNames, bit_size, stage_sizes
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.bit import build, parse_variant

LIBRARY = "google"
MODELS = "BiT, ResNet-v1 with group norm"
WRITES = ("bit",)
COMPARED = "timm, which reads such files too; big_vision's two namings only there and back"

# How the code that each generation of names comes from computes.
_BIG_TRANSFER = {
    "preactivation": True,
    "padding": "fixed",
    "stem_pool_padding": "zeros",
    "weight_epsilon": 1e-10,
    "weight_epsilon_in": "variance",
    "num_groups": 32,
    "group_norm_epsilon": 1e-5,
}
_STYLES = {
    "big_transfer": _BIG_TRANSFER,
    # big_vision's reading of the same files, with which it trains too.
    "bit_paper": _BIG_TRANSFER | {"stem_pool_padding": "lowest"},
    "v1": {
        "preactivation": False,
        "padding": "same",
        "stem_pool_padding": "lowest",
        "weight_epsilon": 1e-5,
        "weight_epsilon_in": "deviation",
        "num_groups": 32,
        "group_norm_epsilon": 1e-6,
    },
}
_ROOTS = {
    "big_transfer": "resnet/root_block/standardized_conv2d/kernel",
    "bit_paper": "root_block/conv_root/kernel",
    "v1": "conv_root/kernel",
}
_UNITS = {
    "big_transfer": r".*resnet/block(\d+)/unit(\d+)/a/standardized_conv2d/kernel",
    "bit_paper": r".*block(\d+)/unit(\d+)/conv1/kernel",
    "v1": r".*block(\d+)/unit(\d+)/conv1/kernel",
}
_NORMS = {"big_transfer": "resnet/group_norm/gamma", "bit_paper": "norm-pre-head/scale", "v1": "gn_root/scale"}
_HEAD_BIASES = {"big_transfer": "resnet/head/conv2d/bias", "bit_paper": "head/bias", "v1": "head/bias"}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    # TensorFlow numbered some of the variables of some files.
    renamed = {re.sub(r"/standardized_conv2d_\d+/", "/standardized_conv2d/", name): name for name in tensors}
    tensors = {name: tensors[stored] for name, stored in renamed.items()}
    found = {names: google_parts.prefix_of(tensors, root) for names, root in _ROOTS.items()}
    names = next((names for names, prefix in found.items() if prefix is not None), None)
    # With an embedding it is a hybrid.
    if names is None or found[names] + "embedding/kernel" in tensors:
        return None
    prefix = found[names]
    sizes = stage_sizes(tensors, _UNITS[names])
    kwargs = bit_size(sizes, shape_of(tensors, prefix + _ROOTS[names], 4)[3]) | _STYLES[names]
    kwargs["num_classes"] = shape_of(tensors, prefix + _HEAD_BIASES[names], 1, (0,))[0]
    layout = {
        "names": names,
        "prefix": prefix,
        "group_norm_axes": google_parts.axes_of(tensors, prefix + _NORMS[names]),
        "renamed": {name: stored for name, stored in renamed.items() if name != stored},
    }
    return google_parts.published("bit", kwargs, (224, 224), layout, sidecar)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    args = complete(build, kwargs)
    names, prefix = layout.get("names", _names(args)), layout.get("prefix", "")
    axes = layout.get("group_norm_axes", 4 if names == "bit_paper" else 1)
    sizes = args["stage_sizes"] or parse_variant(args["variant"])[0]
    entries = _resnet(names)(prefix, axes).entries("encoder", sizes, args["preactivation"])
    if args["num_classes"] and names == "big_transfer":
        entries += [_head(f"{prefix}resnet/head/conv2d/kernel"), same("head/bias", prefix + _HEAD_BIASES[names])]
    elif args["num_classes"]:
        entries += google_parts.dense("head", f"{prefix}head")
    renamed = layout.get("renamed", {})
    entries = [_rename(entry, renamed) for entry in entries]
    return NameMap(entries, google_parts.ignored(prefix))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    return google_parts.config(metadata) if is_of(metadata, "bit") else None


def v1_names(prefix: str, axes: int) -> ResNetNames:
    """ResNet-v1, which is also the stem of the hybrids."""
    return ResNetNames(
        root_conv=f"{prefix}conv_root",
        root_norm=f"{prefix}gn_root",
        final_norm="",
        unit=lambda stage, unit: f"{prefix}block{stage + 1}/unit{unit + 1}/",
        convs=("conv1", "conv2", "conv3"),
        norms=("gn1", "gn2", "gn3"),
        proj_conv="conv_proj",
        proj_norm="gn_proj",
        conv=google_parts.kernel,
        norm=functools.partial(google_parts.norm, axes=axes),
    )


def _bit_paper_names(prefix: str, axes: int) -> ResNetNames:
    return ResNetNames(
        root_conv=f"{prefix}root_block/conv_root",
        root_norm="",
        final_norm=f"{prefix}norm-pre-head",
        unit=lambda stage, unit: f"{prefix}block{stage + 1}/unit{unit + 1:02d}/",
        convs=("conv1", "conv2", "conv3"),
        norms=("gn1", "gn2", "gn3"),
        proj_conv="conv_proj",
        proj_norm="",
        conv=google_parts.kernel,
        norm=functools.partial(google_parts.norm, axes=axes),
    )


def _big_transfer_names(prefix: str, axes: int) -> ResNetNames:
    conv = "standardized_conv2d"
    return ResNetNames(
        root_conv=f"{prefix}resnet/root_block/{conv}",
        root_norm="",
        final_norm=f"{prefix}resnet/group_norm",
        unit=lambda stage, unit: f"{prefix}resnet/block{stage + 1}/unit{unit + 1:02d}/",
        convs=(f"a/{conv}", f"b/{conv}", f"c/{conv}"),
        norms=("a/group_norm", "b/group_norm", "c/group_norm"),
        proj_conv=f"a/proj/{conv}",
        proj_norm="",
        conv=google_parts.kernel,
        norm=functools.partial(google_parts.norm, axes=axes, scale="gamma", bias="beta"),
    )


def _resnet(names: str) -> Any:
    return {"big_transfer": _big_transfer_names, "bit_paper": _bit_paper_names, "v1": v1_names}[names]


def _names(args: Mapping[str, Any]) -> str:
    """The generation to write: the one whose code pads as this model does."""
    if not args["preactivation"]:
        return "v1"
    return "big_transfer" if args["stem_pool_padding"] == "zeros" else "bit_paper"


def _head(theirs: str) -> Entry:
    """A linear head that the file keeps as a 1x1 convolution [1, 1, F, K]."""

    def read(w: NDArray) -> list[NDArray]:
        return [np.squeeze(w, (0, 1))]

    return Entry(("head/kernel",), (theirs,), read, lambda kernel: [kernel[None, None]])


def _rename(entry: Entry, renamed: Mapping[str, str]) -> Entry:
    theirs = tuple(renamed.get(name, name) for name in entry.theirs)
    return Entry(entry.ours, theirs, entry.read, entry.write)
