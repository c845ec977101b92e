"""VGG without batch normalisation as timm names it (`timm.models.vgg`)."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.config_keys import TIMM_VGG
from vit_jax.checkpoints.name_map import NameMap, Shapes, convolution, dense, shape_of
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.vgg import VARIANTS, build

LIBRARY = "timm"
MODELS = "VGG"
WRITES = ("vgg",)
COMPARED = "every map and logits of timm's own models, and LPIPS on them; tensors there and back"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    landmarks = ("features.0.weight", "features.0.bias", "pre_logits.fc1.weight", "pre_logits.fc2.bias")
    if any(name not in tensors for name in landmarks) or any(name.endswith("running_mean") for name in tensors):
        return None
    timm_parts.architecture(sidecar, r"vgg\d+$")
    remarks = timm_parts.check(sidecar, TIMM_VGG, "VGG's poolings and ReLU, and torchvision's pixels")
    depths = _depths(tensors)
    known = (name for name, variant in VARIANTS.items() if variant == depths)
    kwargs = {
        "variant": next(known, "16"),
        "depths": list(depths),
        "width": shape_of(tensors, "features.0.weight", 4)[0],
        "hidden": shape_of(tensors, "pre_logits.fc1.weight", 4)[0],
        "num_classes": shape_of(tensors, "head.fc.bias", 1, (0,))[0],
    }
    size = timm_parts.image_size(sidecar) or [224, 224]
    pixels = timm_parts.preprocess(sidecar, size, crop_pct=0.875, interpolation="bilinear", stats=IMAGENET)
    labels = timm_parts.labels(sidecar, kwargs["num_classes"])
    return Published("vgg", kwargs, pixels, labels=labels, remarks=remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    args = complete(build, kwargs)
    entries, at = [], 0
    for stage, depth in enumerate(args["depths"] or VARIANTS[str(args["variant"])]):
        for i in range(depth):
            entries += convolution(f"encoder/stage{stage}_conv{i}", f"features.{at}")
            at += 2  # its ReLU has a number too
        at += 1  # and the pooling
    if args["hidden"]:
        entries += convolution("fc1", "pre_logits.fc1") + convolution("fc2", "pre_logits.fc2")
    return NameMap(entries + (dense("head", "head.fc") if args["num_classes"] else []))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "vgg"):
        return None
    args = complete(build, metadata["model"]["kwargs"])
    variant = str(args["variant"])
    if tuple(args["depths"] or VARIANTS[variant]) != VARIANTS[variant] or (args["width"], args["hidden"]) != (64, 4096):
        return None
    further = {"first_conv": "features.0", "classifier": "head.fc", "fixed_input_size": False}
    return timm_parts.config(f"vgg{variant}", metadata, {}, further)


def _depths(tensors: Shapes) -> Sequence[int]:
    """Convolutions between poolings: one after another is two numbers on, one after a pooling three."""
    found = (re.fullmatch(r"features\.(\d{1,3})\.weight", name, re.ASCII) for name in tensors)
    numbers = sorted(int(match[1]) for match in found if match)
    depths = [1]
    for before, after in itertools.pairwise(numbers):
        if after - before == 2:
            depths[-1] += 1
        else:
            depths.append(1)
    return tuple(depths)
