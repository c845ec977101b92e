"""ViT, DeiT and the encoder of MAE as transformers names them."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_VIT
from vit_jax.checkpoints.json_file import shown
from vit_jax.checkpoints.name_map import NameMap, Shapes, dense, same, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, INCEPTION, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError

LIBRARY = "transformers"
MODELS = "ViT, DeiT, MAE without its decoder"
WRITES = ("vit",)
COMPARED = "tokens and logits of transformers' own models at two resolutions; files of ours read by transformers"

_LAYER = hf_parts.VIT_LAYER
_PREFIXES = ("vit.", "deit.", "")
# Parts that are not the encoder: the mask token of masked image modelling, and the decoder of SimMIM.
_IGNORED = ("{}embeddings.mask_token", "decoder.0.*")


def describe(tensors: Shapes, sidecar: Sidecar, assumed: str = "vit") -> Published | None:
    """See `Family`; an MAE without its decoder has the tensors of a ViT and is read as one.

    Args:
        assumed: the `model_type` where config.json does not say, or there is none.
    """
    prefix = hf_parts.prefix_of(tensors, _PREFIXES, _LAYER.format(0) + "layernorm_before.weight")
    first = f"{prefix}{_LAYER.format(0)}"
    needed = {
        f"{prefix}embeddings.patch_embeddings.projection.weight": 4,
        f"{prefix}embeddings.position_embeddings": 3,
        f"{first}intermediate.dense.weight": 2,
    }
    if prefix is None or any(len(tensors.get(name, ())) != rank for name, rank in needed.items()):
        return None
    if f"{prefix}embeddings.cls_token" not in tensors or hf_parts.MAE_DECODER in tensors:
        return None
    if f"{prefix}embeddings.detection_tokens" in tensors:  # YOLOS
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_VIT, "vit", "deit", "vit_mae")
    kernel, table, fc1 = (shape_of(tensors, name, rank) for name, rank in needed.items())
    width, patch = kernel[0], kernel[2:]
    depth = parts.depth_of(tensors, prefix + _LAYER)
    distilled = f"{prefix}embeddings.distillation_token" in tensors
    defaults = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
    kwargs = hf_parts.encoder_kwargs(config, patch, width, depth, fc1[0], defaults)
    two_heads = "distillation_classifier.weight" in tensors
    head = "cls_classifier.weight" if two_heads else "classifier.weight"
    kwargs |= {
        "num_classes": shape_of(tensors, head, 2, (0, 0))[0],
        "pooling": "distilled" if two_heads else "token",
        "posemb_resize": "bicubic",
    }
    if distilled:
        kwargs["distillation_token"] = True
    if f"{first}attention.attention.query.bias" not in tensors:
        kwargs["qkv_bias"] = False
    hf_parts.agrees(config, "qkv_bias", kwargs.get("qkv_bias", True))
    if f"{prefix}pooler.dense.weight" in tensors:
        if config.text("pooler_act", "tanh") != "tanh":
            raise UserError(
                f"The model's pooler has the activation {shown(config['pooler_act'])}", "Only 'tanh' can be read"
            )
        kwargs["representation_size"] = shape_of(tensors, f"{prefix}pooler.dense.weight", 2)[0]

    grid = hf_parts.grid(config, table[1] - 1 - distilled, patch[0], f"{prefix}embeddings.position_embeddings")
    image_size = [side * patch[0] for side in grid]
    default = {"resize": "squash", "interpolation": "bilinear", **INCEPTION}
    if distilled or config.text("model_type", assumed) == "vit_mae":
        resize_to = image_size[0] * 256 // 224
        default = {"resize": "short_side", "resize_to": max(resize_to, *image_size), "interpolation": "bicubic"}
        default |= {"crop": "floor", **IMAGENET}
    layout = {"prefix": prefix, "grid": grid}
    kind = "DeiT" if distilled or prefix == "deit." or config.get("model_type") == "deit" else "ViT"
    preprocess = hf_processor.preprocess(sidecar.preprocessor, image_size, default, kind, patch[0])
    remarks += hf_processor.remarks(sidecar.preprocessor, image_size, kind, patch[0])
    return Published("vit", kwargs, preprocess, layout, hf_parts.labels(sidecar, kwargs["num_classes"]), remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `prefix` ('vit.', 'deit.' or '') and `grid`, the rows and columns of positions."""
    distilled = bool(kwargs.get("distillation_token"))
    prefix = layout.get("prefix", _prefix(kwargs))
    entries = hf_parts.vit_entries(kwargs, prefix, layout.get("grid"))
    if distilled:
        entries.append(same("encoder/distillation", f"{prefix}embeddings.distillation_token"))
    if kwargs.get("representation_size"):
        entries += dense("pre_logits", f"{prefix}pooler.dense")
    if kwargs["num_classes"] and kwargs.get("pooling") == "distilled":
        entries += dense("head", "cls_classifier") + dense("distillation_head", "distillation_classifier")
    elif kwargs["num_classes"]:
        entries += dense("head", "classifier")
    return NameMap(entries, tuple(name.format(prefix) for name in _IGNORED))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`. A pooler is what transformers has for a representation layer without a head."""
    if not is_of(metadata, "vit"):
        return None
    kwargs, image_size = metadata["model"]["kwargs"], metadata["preprocess"]["image_size"]
    distilled, pooling = bool(kwargs.get("distillation_token")), kwargs.get("pooling", "token")
    representation, num_classes = kwargs.get("representation_size"), kwargs["num_classes"]
    fits = (
        parts.is_plain(kwargs, distillation_token=..., representation_size=..., qkv_bias=...)
        and parts.tokens_of(kwargs) == (True, True)
        and (pooling == "token" or (pooling == "distilled" and num_classes))
        and not (representation and num_classes)
    )
    if not fits:
        return None
    base = "DeiT" if distilled else "ViT"
    classifier = "ForImageClassificationWithTeacher" if pooling == "distilled" else "ForImageClassification"
    config = {
        "architectures": [base + ("Model" if representation else classifier)],
        "model_type": base.lower(),
        **hf_parts.size_config(kwargs, image_size),
        "intermediate_size": parts.size_of(kwargs)[0].mlp_dim,
        "qkv_bias": kwargs.get("qkv_bias", True),
        **hf_parts.label_config(metadata),
    }
    if representation:
        config |= {"pooler_output_size": representation, "pooler_act": "tanh"}
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}


def _prefix(kwargs: Mapping[str, Any]) -> str:
    """What transformers itself writes: the class with a head has the model as an attribute."""
    if kwargs.get("representation_size"):
        return ""
    return "deit." if kwargs.get("distillation_token") else "vit."
