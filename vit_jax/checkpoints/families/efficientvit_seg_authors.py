"""EfficientViT-Seg as its authors name it (github.com/mit-han-lab/efficientvit, models/efficientvit/seg.py).

They distribute pickles; this reads what `safetensors.torch.save_file` makes of `checkpoint["state_dict"]`.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import TIMM_EFFICIENTVIT
from vit_jax.checkpoints.families import efficientvit_authors as authors
from vit_jax.checkpoints.name_map import NameMap, Shapes, conv, same, shape_of
from vit_jax.checkpoints.parts import efficientvit as parts
from vit_jax.checkpoints.parts import segmentation
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models import efficientvit, segmenter
from vit_jax.models.efficientvit_variants import SERIES, VARIANTS
from vit_jax.nn.efficientvit_head import EfficientViTHead
from vit_jax.nn.stack import block_name

LIBRARY = "efficientvit"
MODELS = "EfficientViT-Seg B and L, in its authors' names"
WRITES = ("segmenter",)
COMPARED = "logits of the authors' trunk and blocks, composed as their head is, every leaf and statistic drawn anew"

_PREFIX, _HEAD = "backbone.", "head."
# What a file's number of classes says of the images: those of Cityscapes and of ADE20K.
_SIZES = {19: [1024, 2048], 150: [512, 512]}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not any(name.startswith(authors.SEGMENTS) for name in tensors):
        return None
    sizes = authors.trunk_kwargs(tensors, _PREFIX)
    if sizes is None:
        return None
    timm_parts.architecture(sidecar, r"efficientvit-seg-(b|l)\d")
    remarks = timm_parts.check(sidecar, TIMM_EFFICIENTVIT, "the epsilons of its kind, and ImageNet's pixels")
    sizes.pop("head_widths", None)
    series = VARIANTS[sizes["variant"]].series
    style = {} if series == "B" else {"activation": SERIES[series].activation, "norm_epsilon": 1e-7}
    trunk = {"name": "efficientvit", **sizes, "attention_epsilon": authors.ATTENTION_EPSILON}
    if series != "B":
        trunk["norm_epsilon"] = 1e-7
    head, classes = _head(tensors)
    size = timm_parts.image_size(sidecar) or _SIZES.get(classes, [512, 512])
    pixels = {"image_size": size, "resize": "squash", "interpolation": "bicubic", **IMAGENET}
    return Published(
        "segmenter",
        {"trunk": trunk, "head": {"name": "efficientvit", **head, **style}, "num_classes": classes},
        pixels,
        labels=timm_parts.labels(sidecar, classes) or segmentation.names_for(classes),
        remarks=remarks,
        **segmentation.task_and_fields(classes),
    )


def _head(tensors: Shapes) -> tuple[dict[str, Any], int]:
    """Arguments of the head but for its activation and epsilon, and the number of classes."""
    depth = parts.numbered(tensors, r"head\.middle\.op_list\.(\d+)\.")
    width = shape_of(tensors, f"{_HEAD}input_ops.0.op_list.0.conv.weight", 4)[0]
    fused = f"{_HEAD}middle.op_list.0.main.spatial_conv.conv.weight"
    first = fused if fused in tensors else f"{_HEAD}middle.op_list.0.main.inverted_conv.conv.weight"
    inner = shape_of(tensors, first, 4)[0] if depth else width
    last = parts.numbered(tensors, r"head\.output_ops\.0\.op_list\.(\d+)\.")
    if last not in (1, 2) or inner % width:
        raise UserError("The head of this EfficientViT-Seg is not one of its authors'", "Load another model")
    classes, wide = shape_of(tensors, f"{_HEAD}output_ops.0.op_list.{last - 1}.conv.weight", 4)[:2]
    return {
        "width": width,
        "depth": depth,
        "block": "fmb" if fused in tensors else "mb",
        "expand_ratio": inner // width,
        "final_expand": wide // width if last == 2 else None,
    }, classes


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    head = segmenter.build(**kwargs).head
    trunk = {key: value for key, value in kwargs["trunk"].items() if key != "name"}
    entries = authors.trunk_entries(complete(efficientvit.build, {**trunk, "num_classes": 0}), _PREFIX)
    for i, stride in enumerate(head.strides):
        # The finest map is not resized, and its convolution stands alone.
        inner = "" if stride == min(head.strides) else ".op_list.0"
        entries += parts.conv_norm(f"head/fusion/input_{stride}", f"{_HEAD}input_ops.{i}{inner}")
    for i in range(head.depth):
        theirs = f"{_HEAD}middle.op_list.{i}.main"
        entries += parts.convolutions(f"head/fusion/{block_name(i)}", theirs, head.block, False)
    if head.final_expand is not None:
        entries += parts.conv_norm("head/expand", f"{_HEAD}output_ops.0.op_list.0")
    last = f"{_HEAD}output_ops.0.op_list.{int(head.final_expand is not None)}.conv"
    entries += [conv("head/classifier/kernel", f"{last}.weight"), same("head/classifier/bias", f"{last}.bias")]
    return NameMap(entries, ignored=("*.num_batches_tracked",))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`; pixels are kept as `efficientvit_authors` keeps them."""
    if not is_of(metadata, "segmenter"):
        return None
    kwargs = metadata["model"]["kwargs"]
    head = segmenter.build(**kwargs).head
    if not isinstance(head, EfficientViTHead) or kwargs["trunk"]["name"] != "efficientvit":
        return None
    if tuple(head.strides) != (32, 16, 8):
        return None
    variant = str(complete(efficientvit.build, kwargs["trunk"])["variant"]).lower()
    return timm_parts.config(f"efficientvit-seg-{variant}", metadata, {}, {})
