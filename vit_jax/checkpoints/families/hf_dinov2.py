"""DINOv2 with and without registers as transformers names it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.checkpoints.config_keys import HF_DINOV2
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, dense, same, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, is_of
from vit_jax.checkpoints.published import Published, Sidecar

LIBRARY = "transformers"
MODELS = "DINOv2, DINOv2 with registers"
WRITES = ("vit",)
COMPARED = "tokens and logits of transformers' own models at two resolutions; files of ours read by transformers"

_LAYER = hf_parts.VIT_LAYER
_PREFIXES = ("dinov2.", "dinov2_with_registers.", "")


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`; it is the ViT of transformers with `layer_scale1.lambda1`."""
    prefix = hf_parts.prefix_of(tensors, _PREFIXES, _LAYER.format(0) + "layer_scale1.lambda1")
    first = f"{prefix}{_LAYER.format(0)}"
    swiglu = f"{first}mlp.weights_out.weight" in tensors
    needed = {
        f"{prefix}embeddings.patch_embeddings.projection.weight": 4,
        f"{prefix}embeddings.position_embeddings": 3,
        f"{first}mlp.{'weights_out' if swiglu else 'fc2'}.weight": 2,
    }
    if prefix is None or any(len(tensors.get(name, ())) != rank for name, rank in needed.items()):
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_DINOV2, "dinov2", "dinov2_with_registers")
    kernel, table, fc2 = (shape_of(tensors, name, rank) for name, rank in needed.items())
    width, patch = kernel[0], kernel[2:]
    depth = parts.depth_of(tensors, prefix + _LAYER)
    defaults = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_attention_heads": width // 64 or 1}
    kwargs = hf_parts.encoder_kwargs(config, patch, width, depth, fc2[1], defaults)
    has_head, registers = "classifier.weight" in tensors, f"{prefix}embeddings.register_tokens" in tensors
    kwargs |= {
        "num_classes": shape_of(tensors, "classifier.weight", 2, (0, 0))[0],
        "pooling": "token_mean" if has_head else "token",
        "layer_scale_init": config.number("layerscale_value") or 1.0,
        "posemb_resize": "bicubic_antialias" if registers else "bicubic",
    }
    if registers:
        kwargs["num_registers"] = shape_of(tensors, f"{prefix}embeddings.register_tokens", 3)[1]
    if swiglu:
        kwargs["mlp"] = "swiglu"
    if f"{first}attention.attention.query.bias" not in tensors:
        kwargs["qkv_bias"] = False
    hf_parts.agrees(config, "qkv_bias", kwargs.get("qkv_bias", True))
    hf_parts.agrees(config, "use_swiglu_ffn", swiglu)
    config.must_agree("num_register_tokens", kwargs.get("num_registers", 0))

    grid = hf_parts.grid(config, table[1] - 1, patch[0], f"{prefix}embeddings.position_embeddings")
    image_size = [side * patch[0] for side in grid]
    default = {
        "resize": "short_side",
        "resize_to": max(image_size),
        "interpolation": "bicubic",
        "crop": "floor",
        **IMAGENET,
    }
    preprocess = hf_processor.preprocess(sidecar.preprocessor, image_size, default, "Bit", patch[0])
    remarks += hf_processor.remarks(sidecar.preprocessor, image_size, "Bit", patch[0])
    labels = hf_parts.labels(sidecar, kwargs["num_classes"])
    return Published("vit", kwargs, preprocess, {"prefix": prefix, "grid": grid}, labels, remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `prefix` and `grid`, the rows and columns of positions."""
    prefix = layout.get("prefix", _prefix(kwargs))
    embeddings = f"{prefix}embeddings."
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "layer_scale1": "layer_scale1.lambda1",
        "layer_scale2": "layer_scale2.lambda1",
        "gate": "mlp.weights_in",
        "gated_fc2": "mlp.weights_out",
    }
    entries = hf_parts.vit_entries(kwargs, prefix, layout.get("grid"), names)
    if kwargs.get("num_registers"):
        entries.append(same("encoder/registers", f"{embeddings}register_tokens"))
    if kwargs["num_classes"]:
        entries += dense("head", "classifier")
    if kwargs.get("num_registers") and "prefix" not in layout:
        # To be written: transformers needs a mask token there, which only pre-training reads.
        zeros = np.zeros((1, parts.size_of(kwargs)[0].width), np.float32)
        entries.append(Entry((), (f"{embeddings}mask_token",), lambda mask_token: [], lambda: [zeros]))
    return NameMap(entries, (f"{embeddings}mask_token",))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`. Its classifier sees the class token and the mean of the patches, which is our 'token_mean'."""
    if not is_of(metadata, "vit"):
        return None
    kwargs, image_size = metadata["model"]["kwargs"], metadata["preprocess"]["image_size"]
    registers, num_classes = kwargs.get("num_registers", 0), kwargs["num_classes"]
    ratio = _mlp_ratio(kwargs)
    fits = (
        parts.is_plain(kwargs, num_registers=..., mlp=..., layer_scale_init=..., qkv_bias=...)
        and kwargs.get("layer_scale_init") is not None
        and parts.tokens_of(kwargs) == (True, True)
        and kwargs.get("pooling", "token") == ("token_mean" if num_classes else "token")
        and ratio is not None
    )
    if not fits:
        return None
    base = "Dinov2WithRegisters" if registers else "Dinov2"
    config = {
        "architectures": [base + ("ForImageClassification" if num_classes else "Model")],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        **hf_parts.size_config(kwargs, image_size),
        "mlp_ratio": ratio,
        "layerscale_value": kwargs["layer_scale_init"],
        "qkv_bias": kwargs.get("qkv_bias", True),
        "use_swiglu_ffn": kwargs.get("mlp") == "swiglu",
        **hf_parts.label_config(metadata),
    }
    if registers:
        config["num_register_tokens"] = registers
    else:
        config["use_mask_token"] = False
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}


def _mlp_ratio(kwargs: Mapping[str, Any]) -> int | None:
    """transformers keeps a whole number from which the hidden width follows."""
    size, _ = parts.size_of(kwargs)
    for ratio in range(1, 17):
        hidden = size.width * ratio
        if kwargs.get("mlp") == "swiglu":
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        if hidden == size.mlp_dim:
            return ratio
    return None


def _prefix(kwargs: Mapping[str, Any]) -> str:
    if not kwargs["num_classes"]:
        return ""
    return "dinov2_with_registers." if kwargs.get("num_registers") else "dinov2."
