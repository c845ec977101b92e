"""BiT as transformers names it (`BitModel`, `BitForImageClassification`)."""

import functools
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_BIT
from vit_jax.checkpoints.json_file import shown
from vit_jax.checkpoints.name_map import NameMap, Shapes, dense, norm, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor
from vit_jax.checkpoints.parts.resnet import ResNetNames, bit_size, differs, stage_sizes, torch_conv
from vit_jax.checkpoints.parts.sidecars import INCEPTION, complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.bit import build, parse_variant

LIBRARY = "transformers"
MODELS = "BiT"
WRITES = ("bit",)
COMPARED = "last map and logits of transformers' own models at three resolutions; files of ours read by transformers"

_STYLE = {
    "stem_pool_padding": "zeros",
    "weight_epsilon": 1e-8,
    "weight_epsilon_in": "variance",
    "group_norm_epsilon": 1e-5,
}
# (layer_type, global_padding, embedding_dynamic_padding) and what they mean. transformers can combine them in further
# ways, which no checkpoint has: then it does not pad the max-pool, or normalises what it has padded.
_PADDINGS = {
    ("preactivation", None, False): {"preactivation": True, "padding": "fixed"},
    ("preactivation", "SAME", True): {"preactivation": True, "padding": "same"},
    ("bottleneck", "SAME", True): {"preactivation": False, "padding": "same"},
}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    landmark = "embedder.convolution.weight"
    prefix = next((p for p in ("bit.", "") if p + landmark in tensors), None)
    # RegNet and ResNet have embedders with batch norm, at other names.
    if prefix is None or f"{prefix}encoder.stages.0.layers.0.conv1.weight" not in tensors:
        return None
    remarks = hf_parts.check(sidecar.config, HF_BIT, "bit") and ("no config.json: the usual paddings are assumed",)
    config, has_root_norm = sidecar.config, f"{prefix}embedder.norm.weight" in tensors
    kind = ("bottleneck" if has_root_norm else "preactivation", "SAME" if has_root_norm else None, has_root_norm)
    if config:
        if config.text("layer_type", "preactivation") != kind[0]:
            raise config.error("layer_type", f"is {shown(config['layer_type'])}, but the tensors say {kind[0]!r}")
        padding = config.text("global_padding")
        kind = (kind[0], padding and padding.upper(), config.boolean("embedding_dynamic_padding", False))
    activation = config.text("hidden_act", "relu")
    if kind not in _PADDINGS or activation != "relu":
        raise UserError(
            f"config.json describes a BiT that is not supported: layer_type={kind[0]}, "
            f"global_padding={shown(kind[1])}, embedding_dynamic_padding={kind[2]}, hidden_act={shown(activation)}",
            "Published BiTs have 'preactivation', null, false and 'relu'",
        )
    sizes = stage_sizes(tensors, rf"{prefix}encoder\.stages\.(\d+)\.layers\.(\d+)\.conv1\.weight")
    kwargs = bit_size(sizes, shape_of(tensors, f"{prefix}{landmark}", 4)[0]) | _STYLE | _PADDINGS[kind]
    groups = config.integer("num_groups", 32, at_least=1)
    kwargs |= {"num_groups": groups, "num_classes": shape_of(tensors, "classifier.1.bias", 1, (0,))[0]}
    default = {"resize": "short_side", "resize_to": 256, "interpolation": "bilinear", "crop": "floor", **INCEPTION}
    image_size = hf_processor.image_size(sidecar.preprocessor, (224, 224), "Bit")
    return Published(
        model="bit",
        kwargs=kwargs,
        preprocess=hf_processor.preprocess(sidecar.preprocessor, image_size, default, "Bit"),
        layout={"prefix": prefix},
        labels=hf_parts.labels(sidecar, kwargs["num_classes"]),
        remarks=remarks + hf_processor.remarks(sidecar.preprocessor, image_size, "Bit"),
    )


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    args = complete(build, kwargs)
    prefix = layout.get("prefix", "bit." if args["num_classes"] else "")
    sizes = args["stage_sizes"] or parse_variant(args["variant"])[0]
    names = ResNetNames(
        root_conv=f"{prefix}embedder.convolution",
        root_norm=f"{prefix}embedder.norm",
        final_norm=f"{prefix}norm",
        unit=functools.partial("{}encoder.stages.{}.layers.{}.".format, prefix),
        convs=("conv1", "conv2", "conv3"),
        norms=("norm1", "norm2", "norm3"),
        proj_conv="downsample.conv",
        proj_norm="downsample.norm",
        conv=torch_conv,
        norm=norm,
    )
    entries = names.entries("encoder", sizes, args["preactivation"])
    return NameMap(entries + (dense("head", "classifier.1") if args["num_classes"] else []))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "bit"):
        return None
    args = complete(build, metadata["model"]["kwargs"])
    kind = next((kind for kind, style in _PADDINGS.items() if not differs(args, style)), None)
    if kind is None or differs(args, _STYLE):
        return None
    sizes, width = parse_variant(args["variant"])
    sizes, width = args["stage_sizes"] or sizes, args["width"] or width
    config = {
        "model_type": "bit",
        "architectures": ["BitForImageClassification" if args["num_classes"] else "BitModel"],
        "layer_type": kind[0],
        "global_padding": kind[1],
        "embedding_dynamic_padding": kind[2],
        "hidden_act": "relu",
        "num_groups": args["num_groups"],
        "embedding_size": width,
        # Not by width_factor, which transformers forgets in its final norm and head.
        "hidden_sizes": [4 * width * 2**i for i in range(len(sizes))],
        "depths": list(sizes),
        **(hf_parts.label_config(metadata) if args["num_classes"] else {}),
    }
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}
