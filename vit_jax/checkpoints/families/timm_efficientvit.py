"""EfficientViT as timm names it (`timm.models.efficientvit_mit`)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import TIMM_EFFICIENTVIT
from vit_jax.checkpoints.name_map import NameMap, Shapes, dense, linear, norm, shape_of
from vit_jax.checkpoints.parts import efficientvit as parts
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.resnet import stage_sizes
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.efficientvit import build
from vit_jax.models.efficientvit_variants import SERIES, VARIANTS

LIBRARY = "timm"
MODELS = "EfficientViT B and L"
WRITES = ("efficientvit",)
COMPARED = "every map and logits of timm's own models at two resolutions; files of ours read by timm"

# Of every model of the series there. The authors have 1e-15 in the attention.
_NORM_EPSILON = {"B": 1e-5, "L": 1e-7}
_ATTENTION_EPSILON = 1e-5


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    landmarks = ("stem.in_conv.conv.weight", "stem.in_conv.norm.running_mean")
    if any(name not in tensors for name in landmarks) or "stages.0.blocks.0.main.point_conv.conv.weight" not in tensors:
        return None
    timm_parts.architecture(sidecar, r"efficientvit_[bl]\d")
    remarks = timm_parts.check(sidecar, TIMM_EFFICIENTVIT, "EfficientViT's activation, and ImageNet's pixels")
    counts = stage_sizes(tensors, r"stages\.(\d+)\.blocks\.(\d+)\..+")
    kwargs = parts.sizes(
        tensors,
        "stem.in_conv.conv.weight",
        (parts.numbered(tensors, r"stem\.res(\d+)\."), *counts),
        lambda i, j: f"stages.{i - 1}.blocks.{j}",
        ("head.in_conv.conv.weight", "head.classifier.0.weight"),
    )
    kwargs |= {
        "num_classes": shape_of(tensors, "head.classifier.4.bias", 1, (0,))[0],
        "norm_epsilon": _NORM_EPSILON.get(VARIANTS[kwargs["variant"]].series, 1e-7),
        "attention_epsilon": _ATTENTION_EPSILON,
    }
    size = timm_parts.image_size(sidecar) or [224, 224]
    pixels = timm_parts.preprocess(sidecar, size, crop_pct=0.95, interpolation="bicubic", stats=IMAGENET)
    labels = timm_parts.labels(sidecar, kwargs["num_classes"])
    if not kwargs["num_classes"] and "head.in_conv.conv.weight" in tensors:
        remarks += ("without classes the layers of the head lead nowhere, and are left out",)
    return Published("efficientvit", kwargs, pixels, labels=labels, remarks=remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    model = build(**complete(build, kwargs))

    def first(i: int) -> str:
        return f"stages.{i - 1}.blocks.0" if i else "stem.in_conv"

    def block(i: int, j: int) -> str:
        return f"stages.{i - 1}.blocks.{j + 1}" if i else f"stem.res{j}"

    entries, ignored = parts.trunk(kwargs, first, block), ("*.num_batches_tracked",)
    if not model.num_classes:
        return NameMap(entries, ignored=(*ignored, "head.*"))
    if model.head_widths:
        entries += parts.conv_norm("head_conv", "head.in_conv")
        entries += [linear("pre_logits/kernel", "head.classifier.0.weight"), *norm("head_norm", "head.classifier.1")]
    return NameMap([*entries, *dense("head", "head.classifier.4")], ignored=ignored)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "efficientvit"):
        return None
    args = complete(build, metadata["model"]["kwargs"])
    model, variant = build(**args), str(args["variant"]).upper()
    series = VARIANTS[variant].series
    epsilons = model.encoder.style.norm_epsilon, model.encoder.attention_epsilon
    if series not in _NORM_EPSILON or epsilons != (_NORM_EPSILON[series], _ATTENTION_EPSILON) or not model.head_widths:
        return None
    if model.encoder.stages != SERIES[series].stages or not model.num_classes:
        return None
    theirs = {"head_width": "head_dim"}
    own = {theirs.get(key, key): value for key, value in parts.own_sizes(args).items()}
    if variant == "L0":  # which timm does not have
        variant, own = "L1", own | {"depths": list(model.encoder.depths)}
    further = {"first_conv": "stem.in_conv.conv", "classifier": "head.classifier.4", "fixed_input_size": False}
    return timm_parts.config(f"efficientvit_{variant.lower()}", metadata, own, further)
