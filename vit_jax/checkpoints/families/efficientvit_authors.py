"""EfficientViT as its authors name it (github.com/mit-han-lab/efficientvit): a classifier, or its trunk alone.

They distribute pickles; this reads what `safetensors.torch.save_file` makes of `checkpoint["state_dict"]`.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import TIMM_EFFICIENTVIT
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, dense, linear, norm, shape_of
from vit_jax.checkpoints.parts import efficientvit as parts
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.resnet import stage_sizes
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.efficientvit import build
from vit_jax.models.efficientvit_variants import VARIANTS

LIBRARY = "efficientvit"
MODELS = "EfficientViT B, L and XL, in its authors' names"
WRITES = ("efficientvit",)
COMPARED = "every map of the authors' own trunks at two resolutions, B0 to B3, L0 to L3, XL0 and XL1; their attention"

_PREFIX = "backbone."
ATTENTION_EPSILON = 1e-15
SEGMENTS = "head.input_ops."  # of a head that segments


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in tensors) else ""
    if any(name.startswith(SEGMENTS) for name in tensors):
        return None
    kwargs = trunk_kwargs(tensors, prefix)
    if kwargs is None:
        return None
    timm_parts.architecture(sidecar, r"efficientvit-(b|l|xl)\d")
    remarks = timm_parts.check(sidecar, TIMM_EFFICIENTVIT, "the epsilons of its kind, and ImageNet's pixels")
    kwargs |= {
        "num_classes": shape_of(tensors, "head.op_list.3.linear.bias", 1, (0,))[0],
        "attention_epsilon": ATTENTION_EPSILON,
    }
    classifies, size = kwargs["num_classes"] > 0, VARIANTS[kwargs["variant"]]
    if not classifies:
        kwargs.pop("head_widths", None)
        # Trunks of the large series are published as those of SAM.
        kwargs["norm_epsilon"] = 1e-5 if size.series == "B" else 1e-6
        remarks += (f"a trunk alone: an epsilon of {kwargs['norm_epsilon']} in its norms is assumed",)
    elif size.series != "B":
        kwargs["norm_epsilon"] = 1e-7
    crop = 0.95 if kwargs["variant"] == "B1" else 1.0
    pixels = timm_parts.preprocess(
        sidecar, timm_parts.image_size(sidecar) or [224, 224], crop_pct=crop, interpolation="bicubic", stats=IMAGENET
    )
    labels = timm_parts.labels(sidecar, kwargs["num_classes"])
    return Published("efficientvit", kwargs, pixels, {"prefix": prefix}, labels=labels, remarks=remarks)


def trunk_kwargs(tensors: Shapes, prefix: str) -> dict[str, Any] | None:
    """Arguments of `build` for the sizes that the shapes say; None where there is no such trunk.

    Args:
        prefix: what stands before the trunk's names.
    """
    small = f"{prefix}input_stem.op_list.0.conv.weight" in tensors
    stem = f"{prefix}{'input_stem' if small else 'stages.0'}.op_list.0.conv.weight"
    if stem not in tensors or stem.replace("conv.weight", "norm.running_mean") not in tensors:
        return None
    counts = stage_sizes(tensors, prefix.replace(".", r"\.") + r"stages\.(\d+)\.op_list\.(\d+)\..+")
    if small:
        counts = (parts.numbered(tensors, prefix.replace(".", r"\.") + r"input_stem\.op_list\.(\d+)\."), *counts)
    return parts.sizes(
        tensors,
        stem,
        (counts[0] - 1, *counts[1:]),
        lambda i, j: f"{prefix}stages.{i - small}.op_list.{j}",
        ("head.op_list.0.conv.weight", "head.op_list.2.linear.weight"),
    )


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    model = build(**complete(build, kwargs))
    prefix = layout.get("prefix", _PREFIX if model.num_classes else "")
    entries = trunk_entries(kwargs, prefix)
    if model.num_classes:
        if model.head_widths:
            entries += parts.conv_norm("head_conv", "head.op_list.0")
            hidden = "head.op_list.2"
            entries += [linear("pre_logits/kernel", f"{hidden}.linear.weight"), *norm("head_norm", f"{hidden}.norm")]
        entries += dense("head", "head.op_list.3.linear")
    return NameMap(entries, ignored=("*.num_batches_tracked",))


def trunk_entries(kwargs: Mapping[str, Any], prefix: str) -> list[Entry]:
    """Those of the trunk, whose names begin with the prefix."""
    small = build(**complete(build, kwargs)).encoder.style.activation == "hard_swish"

    def first(i: int) -> str:
        return block(i, -1)

    def block(i: int, j: int) -> str:
        stage = f"stages.{i - small}" if i or not small else "input_stem"
        return f"{prefix}{stage}.op_list.{j + 1}"

    return parts.trunk(kwargs, first, block)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`.

    The authors have no such file. Pixels are kept in the form that timm has for them.
    """
    if not is_of(metadata, "efficientvit"):
        return None
    args = complete(build, metadata["model"]["kwargs"])
    model = build(**args)
    if model.num_classes and not model.head_widths:
        return None
    return timm_parts.config(f"efficientvit-{str(args['variant']).lower()}", metadata, {}, {})
