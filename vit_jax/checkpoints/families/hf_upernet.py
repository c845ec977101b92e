"""UPerNet on Swin as transformers names it in files (`UperNetForSemanticSegmentation`), which holds mmseg's weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_SWIN_BACKBONE, HF_UPERNET
from vit_jax.checkpoints.families import hf_swin
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, convolution, norm, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor, segmentation
from vit_jax.checkpoints.parts import swin as swin_parts
from vit_jax.checkpoints.parts.efficientvit import conv_norm
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models import segmenter, swin
from vit_jax.nn.upernet import UPerNetHead

LIBRARY = "transformers"
MODELS = "UPerNet on Swin"
WRITES = ("segmenter",)
COMPARED = "logits of transformers' own model, every leaf and statistic drawn anew; our files read by it"

_PREFIX, _STRIDES = "backbone.", (4, 8, 16, 32)
_TABLE = "encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"
# Tables that follow from the sizes, and the norm of a whole Swin, which the backbone has and does not use.
_IGNORED = ("*.relative_position_index", "backbone.swin.layernorm.*", "backbone.layernorm.*", "*.num_batches_tracked")
_NAMES = dataclasses.replace(hf_swin.names(_PREFIX), norm=f"{_PREFIX}hidden_states_norms.stage4")


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if _PREFIX + _TABLE not in tensors or "decode_head.fpn_bottleneck.conv.weight" not in tensors:
        return None
    config, inner = sidecar.config, sidecar.config.object("backbone_config")
    remarks = hf_parts.check(config, HF_UPERNET, "upernet")
    hf_parts.check(inner, HF_SWIN_BACKBONE, "swin")
    trunk = {"name": "swin", **_trunk(tensors, sidecar)}
    width = shape_of(tensors, "decode_head.fpn_bottleneck.conv.weight", 4)[0]
    classes = shape_of(tensors, "decode_head.classifier.weight", 4)[0]
    auxiliary = shape_of(tensors, "auxiliary_head.convs.0.conv.weight", 4, (0, 0, 0, 0))[0]
    config.must_agree("hidden_size", width)
    head = {"name": "upernet", "map_norms": True}
    scales = config.integers("pool_scales", at_least=1) or [1, 2, 3, 6]
    head |= {key: value for key, value, default in (
        ("width", width, 512), ("auxiliary_width", auxiliary, 256), ("pool_scales", scales, [1, 2, 3, 6])
    ) if value != default}  # fmt: skip
    default = {"resize": "squash", "interpolation": "bilinear", **IMAGENET}
    preprocess = hf_processor.preprocess(sidecar.preprocessor, [512, 512], default, "Segformer")
    remarks += hf_processor.remarks(sidecar.preprocessor, [512, 512], "Segformer")
    labels = hf_parts.labels(sidecar, classes)
    return Published(
        "segmenter",
        {"trunk": trunk, "head": head, "num_classes": classes},
        preprocess,
        labels=labels,
        remarks=remarks,
        **segmentation.task_and_fields(classes),
    )


def _trunk(tensors: Shapes, sidecar: Sidecar) -> dict[str, Any]:
    """Arguments of the Swin in it."""
    config = sidecar.config.object("backbone_config")
    kwargs = swin_parts.size_kwargs(
        tensors, _NAMES, lambda block: shape_of(tensors, block + "attention.self.relative_position_bias_table", 2)[1]
    )
    if len(swin_parts.swin_size_of(kwargs).depths) != len(_STRIDES) or "patch_size" in kwargs:
        raise UserError("The Swin in this UPerNet is not one of four stages from patches of 4", "Load another model")
    config.must_agree("embed_dim", shape_of(tensors, f"{_NAMES.patch}.weight", 4)[0])
    if config.number("layer_norm_eps", 1e-5, at_least=0) != 1e-5:
        raise config.error("layer_norm_eps", "is not 1e-05, which the norms of the maps have", "Load another model")
    window = config.integer("window_size", 7 if config else None, at_least=1)
    size = config.sides("image_size") or ([224, 224] if config else None)
    windows, _ = swin_parts.window_kwargs(tensors, _NAMES, kwargs, window, size, "both")
    return kwargs | windows


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    trunk = {key: value for key, value in kwargs["trunk"].items() if key != "name"}
    head = segmenter.build(**kwargs).head
    entries = swin_parts.entries(complete(swin.build, {**trunk, "num_classes": 0}), _NAMES, swin_parts.block_entries)
    for i, stride in enumerate(_STRIDES[:-1]):
        entries += norm(f"head/norm_{stride}", f"{_PREFIX}hidden_states_norms.stage{i + 1}")
        entries += _conv_norm(f"head/lateral_{stride}", f"decode_head.lateral_convs.{i}")
        entries += _conv_norm(f"head/fpn_{stride}", f"decode_head.fpn_convs.{i}")
    for i, scale in enumerate(head.pool_scales):
        entries += _conv_norm(f"head/pool_{scale}", f"decode_head.psp_modules.{i}.1")
    entries += _conv_norm("head/bottleneck", "decode_head.bottleneck")
    entries += _conv_norm("head/fpn_bottleneck", "decode_head.fpn_bottleneck")
    entries += convolution("head/classifier", "decode_head.classifier")
    if head.auxiliary_width:
        entries += _conv_norm("head/auxiliary", "auxiliary_head.convs.0")
        entries += convolution("head/auxiliary_classifier", "auxiliary_head.classifier")
    return NameMap(entries, _IGNORED)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "segmenter"):
        return None
    kwargs = metadata["model"]["kwargs"]
    model = segmenter.build(**kwargs)
    trunk = {key: value for key, value in kwargs["trunk"].items() if key != "name"}
    if not isinstance(model.head, UPerNetHead) or not model.head.map_norms or kwargs["trunk"]["name"] != "swin":
        return None
    inner = hf_swin.config_of({**trunk, "num_classes": 0}, [224, 224])
    if inner is None or inner["layer_norm_eps"] != 1e-5 or len(inner["depths"]) != len(_STRIDES):
        return None
    stages = [f"stage{i + 1}" for i in range(len(_STRIDES))]
    config = {
        "architectures": ["UperNetForSemanticSegmentation"],
        "model_type": "upernet",
        "backbone_config": {"model_type": "swin", **inner, "out_features": stages},
        "hidden_size": model.head.width,
        "pool_scales": list(model.head.pool_scales),
        "use_auxiliary_head": bool(model.head.auxiliary_width),
        **({"auxiliary_channels": model.head.auxiliary_width} if model.head.auxiliary_width else {}),
        **hf_parts.label_config(metadata),
    }
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}


def _conv_norm(ours: str, theirs: str) -> list[Entry]:
    return conv_norm(ours, theirs, norm_name="batch_norm")
