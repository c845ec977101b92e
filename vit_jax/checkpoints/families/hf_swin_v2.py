"""Swin v2 as transformers names it (`Swinv2Model`, `Swinv2ForImageClassification`)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_SWIN_V2
from vit_jax.checkpoints.name_map import NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor
from vit_jax.checkpoints.parts import swin as parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.parts.swin_v2 import SwinV2Names, block_entries
from vit_jax.checkpoints.parts.vit import gelu_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.swin_v2 import build

LIBRARY = "transformers"
MODELS = "Swin v2"
WRITES = ("swin_v2",)
COMPARED = "every map and logits of transformers' own models, where no window divides them too; our files read by it"

_SCALE = "attention.self.logit_scale"
_DIALECT = {"pad_order": "pad_then_shift", "clamp": "both"}
# Tables that follow from the sizes, and the mask token and decoder of SimMIM.
_IGNORED = ("*.relative_position_index", "*.relative_coords_table", "{}embeddings.mask_token", "decoder.0.*")


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    prefix = hf_parts.prefix_of(tensors, ("swinv2.", ""), f"encoder.layers.0.blocks.0.{_SCALE}")
    if prefix is None or f"{prefix}embeddings.patch_embeddings.projection.weight" not in tensors:
        return None
    config, names = sidecar.config, _names(prefix)
    remarks = hf_parts.check(config, HF_SWIN_V2, "swinv2")
    kwargs = parts.size_kwargs(tensors, names, lambda block: shape_of(tensors, block + _SCALE, 3)[0])
    config.must_agree("embed_dim", shape_of(tensors, f"{names.patch}.weight", 4)[0])
    if gelu_of(config.text("hidden_act", "gelu")) != "exact":
        kwargs["activation"] = "gelu_tanh"
    if (epsilon := config.number("layer_norm_eps", 1e-5, at_least=0)) != 1e-5:
        kwargs["norm_epsilon"] = epsilon
    # A config.json leaves out what is the default of its class.
    window = config.integer("window_size", 7 if config else 8, at_least=1)
    if window != 8:
        kwargs["window_size"] = window
    pretrained = config.integers("pretrained_window_sizes", len(parts.swin_size_of(kwargs).depths))
    if pretrained and any(pretrained):
        kwargs["pretrained_window"] = pretrained
    kwargs["num_classes"] = shape_of(tensors, "classifier.weight", 2, (0, 0))[0]
    size = config.sides("image_size") or [224 if config else 256] * 2
    default = {"resize": "squash", "interpolation": "bicubic", **IMAGENET}
    preprocess = hf_processor.preprocess(sidecar.preprocessor, size, default, "ViT")
    remarks += hf_processor.remarks(sidecar.preprocessor, size, "ViT")
    labels = hf_parts.labels(sidecar, kwargs["num_classes"])
    return Published("swin_v2", kwargs, preprocess, {"prefix": prefix}, labels, remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds the `prefix`, 'swinv2.' or ''."""
    prefix = layout.get("prefix", "swinv2." if kwargs["num_classes"] else "")
    ignored = tuple(pattern.format(prefix) for pattern in _IGNORED)
    return NameMap(parts.entries(complete(build, kwargs), _names(prefix), block_entries), ignored)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`; transformers decides on windows by the height of images alone."""
    if not is_of(metadata, "swin_v2"):
        return None
    kwargs, side = metadata["model"]["kwargs"], [int(pixels) for pixels in metadata["preprocess"]["image_size"]]
    model = parts.model_of(kwargs, "activation", "norm_epsilon", "pretrained_window", build=build)
    if model is None or side[0] != side[1] or not parts.computes_alike(model, side, **_DIALECT):
        return None
    encoder, size = model.encoder, parts.swin_size_of(kwargs)
    windows, style = {s.window_size for s in encoder.styles}, encoder.styles[0]
    activations = {"gelu_exact": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
    if len(windows) > 1 or style.activation not in activations:
        return None
    config = {
        "architectures": ["Swinv2ForImageClassification" if kwargs["num_classes"] else "Swinv2Model"],
        "model_type": "swinv2",
        **parts.hf_config(encoder, size, side),
        "hidden_act": activations[style.activation],
        "pretrained_window_sizes": [s.pretrained_window for s in encoder.styles],
        **(hf_parts.label_config(metadata) if kwargs["num_classes"] else {}),
    }
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}


def _names(prefix: str) -> SwinV2Names:
    return SwinV2Names(
        patch=f"{prefix}embeddings.patch_embeddings.projection",
        patch_norm=f"{prefix}embeddings.norm",
        merging=lambda stage: f"{prefix}encoder.layers.{stage - 1}.downsample.",
        block=f"{prefix}encoder.layers.{{}}.blocks.{{}}.",
        norm1="layernorm_before",
        qkv=tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
        table="",
        out="attention.output.dense",
        norm2="layernorm_after",
        fc1="intermediate.dense",
        fc2="output.dense",
        norm=f"{prefix}layernorm",
        head="classifier",
        scale=_SCALE,
        positions="attention.self.continuous_position_bias_mlp.",
        query_bias="attention.self.query.bias",
        value_bias="attention.self.value.bias",
    )
