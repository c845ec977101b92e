"""ResNets with batch normalisation as timm and torchvision name them (`timm.models.resnet`)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import TIMM_RESNET
from vit_jax.checkpoints.name_map import NameMap, Shapes, dense, shape_of
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.resnet import conv_norm, stage_sizes
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.resnet import VARIANTS, build
from vit_jax.nn.residual import unit_name

LIBRARY = "timm"
MODELS = "ResNet, torchvision's too"
WRITES = ("resnet",)
COMPARED = "features and logits of timm's own models with random statistics; files of ours read by timm"

_UNIT = r"layer(\d+)\.(\d+)\.conv1\.weight"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    landmarks = ("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer1.0.bn2.running_var")
    if any(name not in tensors for name in landmarks):
        return None
    # Others have the same names: ResNeXt, wide ones, those with blurred or averaged strides.
    timm_parts.architecture(sidecar, r"((tv|gluon|ssl|swsl)_)?resnet\d+(_v1b)?$")
    remarks = timm_parts.check(sidecar, TIMM_RESNET, "a ResNet's strides and ReLU, and torchvision's pixels")
    depths, bottleneck = stage_sizes(tensors, _UNIT), "layer1.0.conv3.weight" in tensors
    known = (name for name, variant in VARIANTS.items() if variant == (depths, bottleneck))
    kwargs = {
        "variant": next(known, "50" if bottleneck else "18"),
        "depths": list(depths),
        "width": shape_of(tensors, "conv1.weight", 4)[0],
        "num_classes": shape_of(tensors, "fc.bias", 1, (0,))[0],
    }
    size = timm_parts.image_size(sidecar) or [224, 224]
    pixels = timm_parts.preprocess(sidecar, size, crop_pct=0.875, interpolation="bilinear", stats=IMAGENET)
    labels = timm_parts.labels(sidecar, kwargs["num_classes"])
    return Published("resnet", kwargs, pixels, labels=labels, remarks=remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    args = complete(build, kwargs)
    depths, bottleneck = VARIANTS[str(args["variant"])]
    entries = conv_norm("encoder/conv1", "encoder/norm1", "conv1", "bn1")
    channels = args["width"]
    for stage, size in enumerate(args["depths"] or depths):
        width = args["width"] * 2**stage
        out = width * (4 if bottleneck else 1)
        for unit in range(size):
            ours, theirs = f"encoder/{unit_name(stage, unit)}", f"layer{stage + 1}.{unit}"
            for i in range(1, 4 if bottleneck else 3):
                entries += conv_norm(f"{ours}/conv{i}", f"{ours}/norm{i}", f"{theirs}.conv{i}", f"{theirs}.bn{i}")
            if channels != out or (stage and not unit):
                shortcut = f"{theirs}.downsample"
                entries += conv_norm(f"{ours}/proj_conv", f"{ours}/proj_norm", f"{shortcut}.0", f"{shortcut}.1")
            channels = out
    head = dense("head", "fc") if args["num_classes"] else []
    return NameMap([*entries, *head], ignored=("*.num_batches_tracked",))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "resnet"):
        return None
    args = complete(build, metadata["model"]["kwargs"])
    depths, _ = VARIANTS[str(args["variant"])]
    if tuple(args["depths"] or depths) != depths or args["width"] != 64 or args["stem"] != "imagenet":
        return None
    further = {"first_conv": "conv1", "classifier": "fc", "fixed_input_size": False}
    return timm_parts.config(f"resnet{args['variant']}", metadata, {}, further)
