"""Swin as transformers names it in files (`SwinModel`, `SwinForImageClassification`)."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.config_keys import HF_SWIN
from vit_jax.checkpoints.name_map import NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor
from vit_jax.checkpoints.parts import swin as parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.parts.vit import gelu_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.swin import build

LIBRARY = "transformers"
MODELS = "Swin"
WRITES = ("swin",)
COMPARED = "every map and logits of transformers' own models, where no window divides them too; our files read by it"

_TABLE = "attention.self.relative_position_bias_table"
_DIALECT = {"pad_order": "pad_then_shift", "clamp": "both"}
# Tables that follow from the sizes, and the mask token and decoder of SimMIM.
_IGNORED = ("*.relative_position_index", "{}embeddings.mask_token", "decoder.0.*")


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    prefix = hf_parts.prefix_of(tensors, ("swin.", ""), f"encoder.layers.0.blocks.0.{_TABLE}")
    if prefix is None or f"{prefix}embeddings.patch_embeddings.projection.weight" not in tensors:
        return None
    config, named = sidecar.config, names(prefix)
    remarks = hf_parts.check(config, HF_SWIN, "swin")
    kwargs = parts.size_kwargs(tensors, named, lambda block: shape_of(tensors, block + _TABLE, 2)[1])
    config.must_agree("embed_dim", shape_of(tensors, f"{named.patch}.weight", 4)[0])
    if gelu_of(config.text("hidden_act", "gelu")) != "exact":
        kwargs["activation"] = "gelu_tanh"
    if (epsilon := config.number("layer_norm_eps", 1e-5, at_least=0)) != 1e-5:
        kwargs["norm_epsilon"] = epsilon
    # A config.json leaves out what is the default of its class.
    window = config.integer("window_size", 7 if config else None, at_least=1)
    size = config.sides("image_size") or ([224, 224] if config else None)
    windows, size = parts.window_kwargs(tensors, named, kwargs, window, size, "both")
    kwargs |= windows | {"num_classes": shape_of(tensors, "classifier.weight", 2, (0, 0))[0]}
    default = {"resize": "squash", "interpolation": "bicubic", **IMAGENET}
    preprocess = hf_processor.preprocess(sidecar.preprocessor, size, default, "ViT")
    remarks += hf_processor.remarks(sidecar.preprocessor, size, "ViT")
    labels = hf_parts.labels(sidecar, kwargs["num_classes"])
    return Published("swin", kwargs, preprocess, {"prefix": prefix}, labels, remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds the `prefix`, 'swin.' or ''."""
    prefix = layout.get("prefix", "swin." if kwargs["num_classes"] else "")
    ignored = tuple(pattern.format(prefix) for pattern in _IGNORED)
    return NameMap(parts.entries(complete(build, kwargs), names(prefix), parts.block_entries), ignored)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`; transformers cannot run a map that is smaller than a window."""
    if not is_of(metadata, "swin"):
        return None
    kwargs, side = metadata["model"]["kwargs"], [int(pixels) for pixels in metadata["preprocess"]["image_size"]]
    found = config_of(kwargs, side)
    if found is None:
        return None
    classes = kwargs["num_classes"]
    config = {
        "architectures": ["SwinForImageClassification" if classes else "SwinModel"],
        "model_type": "swin",
        **found,
        **(hf_parts.label_config(metadata) if classes else {}),
    }
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}


def config_of(kwargs: Mapping[str, Any], side: Sequence[int]) -> dict[str, Any] | None:
    """What config.json says of the trunk; None for one that transformers cannot hold.

    Args:
        kwargs: of the model.
        side: of its images, [h, w].
    """
    model = parts.model_of(kwargs, "activation", "norm_epsilon")
    if model is None or not parts.computes_alike(model, side, **_DIALECT):
        return None
    encoder, size = model.encoder, parts.swin_size_of(kwargs)
    windows, style = {s.window_size for s in encoder.styles}, encoder.styles[0]
    activations = {"gelu_exact": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
    if (
        len(windows) > 1
        or min(map(min, encoder.grids(side))) < style.window_size
        or style.activation not in activations
    ):
        return None
    return {**parts.hf_config(encoder, size, side), "hidden_act": activations[style.activation]}


def names(prefix: str) -> parts.SwinNames:
    """Of the tensors in a file, after what stands before those of the trunk."""
    return parts.SwinNames(
        patch=f"{prefix}embeddings.patch_embeddings.projection",
        patch_norm=f"{prefix}embeddings.norm",
        merging=lambda stage: f"{prefix}encoder.layers.{stage - 1}.downsample.",
        block=f"{prefix}encoder.layers.{{}}.blocks.{{}}.",
        norm1="layernorm_before",
        qkv=tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
        table=_TABLE,
        out="attention.output.dense",
        norm2="layernorm_after",
        fc1="intermediate.dense",
        fc2="output.dense",
        norm=f"{prefix}layernorm",
        head="classifier",
    )
