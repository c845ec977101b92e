"""SigLIP's vision tower as transformers names it, alone or under a classifier; both towers are `hf_siglip_pair`'s."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_SIGLIP, HF_SIGLIP_WHOLE
from vit_jax.checkpoints.name_map import NameMap, Shapes, conv, dense, norm, same, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import INCEPTION, is_of
from vit_jax.checkpoints.published import Published, Sidecar

LIBRARY = "transformers"
MODELS = "SigLIP vision tower"
WRITES = ("vit",)
COMPARED = "tokens and logits of transformers' own models at two resolutions; files of ours read by transformers"

_LAYER = "encoder.layers.{}."
_HEAD = (
    "probe",
    "attention.in_proj_weight",
    "attention.in_proj_bias",
    *(f"{part}.weight" for part in ("attention.out_proj", "layernorm", "mlp.fc1", "mlp.fc2")),
    *(f"{part}.bias" for part in ("attention.out_proj", "layernorm", "mlp.fc1", "mlp.fc2")),
)


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. With a classifier the tower pools by the mean, and its attention pooling is left unread."""
    prefix = hf_parts.prefix_of(tensors, ("vision_model.", ""), "embeddings.position_embedding.weight")
    needed = {
        f"{prefix}embeddings.patch_embedding.weight": 4,
        f"{prefix}embeddings.position_embedding.weight": 2,
        f"{prefix}{_LAYER.format(0)}mlp.fc1.weight": 2,
        f"{prefix}post_layernorm.weight": 1,
    }
    if prefix is None or any(len(tensors.get(name, ())) != rank for name, rank in needed.items()):
        return None
    if f"{prefix}embeddings.class_embedding" in tensors or "logit_scale" in tensors:  # that is CLIP, or both towers
        return None
    config = sidecar.config
    if "vision_config" in config:  # of a classifier
        hf_parts.check(config, HF_SIGLIP_WHOLE, "siglip")
        config = {"model_type": "siglip_vision_model"} | config.object("vision_config")
    remarks = hf_parts.check(config, HF_SIGLIP, "siglip_vision_model", "siglip")
    kernel, table, fc1, _ = (shape_of(tensors, name, rank) for name, rank in needed.items())
    width, patch = kernel[0], kernel[2:]
    defaults = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    kwargs = hf_parts.encoder_kwargs(config, patch, width, parts.depth_of(tensors, prefix + _LAYER), fc1[0], defaults)
    has_head, has_pool = "classifier.weight" in tensors, f"{prefix}head.probe" in tensors
    kwargs |= {
        "num_classes": shape_of(tensors, "classifier.weight", 2, (0, 0))[0],
        "pooling": "map" if has_pool and not has_head else "mean",
        "class_token": False,
        "posemb_resize": "bicubic",
    }
    if not has_head:
        hf_parts.agrees(config, "vision_use_head", has_pool)
    grid = hf_parts.grid(config, table[0], patch[0], f"{prefix}embeddings.position_embedding.weight")
    image_size = [side * patch[0] for side in grid]
    default = {"resize": "squash", "interpolation": "bicubic", **INCEPTION}
    preprocess = hf_processor.preprocess(sidecar.preprocessor, image_size, default, "Siglip", patch[0])
    remarks += hf_processor.remarks(sidecar.preprocessor, image_size, "Siglip", patch[0])
    labels = hf_parts.labels(sidecar, kwargs["num_classes"])
    return Published("vit", kwargs, preprocess, {"prefix": prefix, "grid": grid}, labels, remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `prefix` and `grid`, the rows and columns of positions."""
    size, _ = parts.size_of(kwargs)
    prefix = layout.get("prefix", "vision_model." if kwargs["num_classes"] else "")
    layer = prefix + _LAYER
    names = parts.BlockNames(
        norm1=layer + "layer_norm1",
        qkv=tuple(layer + f"self_attn.{part}_proj" for part in "qkv"),
        out=layer + "self_attn.out_proj",
        norm2=layer + "layer_norm2",
        fc1=layer + "mlp.fc1",
        fc2=layer + "mlp.fc2",
    )
    entries = [
        conv("encoder/embedding/kernel", f"{prefix}embeddings.patch_embedding.weight"),
        same("encoder/embedding/bias", f"{prefix}embeddings.patch_embedding.bias"),
        parts.position_entry(
            kwargs, f"{prefix}embeddings.position_embedding.weight", layout.get("grid"), leading=False
        ),
        *parts.block_entries(kwargs, names),
        *norm("encoder/norm", f"{prefix}post_layernorm"),
    ]
    ignored = (f"{prefix}embeddings.position_ids",)
    head = f"{prefix}head."
    if kwargs.get("pooling") == "map":
        attention, qkv = "pool/attention", ("query", "key", "value")
        weight, bias = f"{head}attention.in_proj_weight", f"{head}attention.in_proj_bias"
        entries.append(same("pool/probe", f"{head}probe"))
        entries += parts.fused_projections(attention, qkv, weight, bias, size.width, size.num_heads)
        entries += parts.attention_out(f"{attention}/out", f"{head}attention.out_proj", size.width, size.num_heads)
        entries += norm("pool/norm", f"{head}layernorm")
        entries += dense("pool/mlp/fc1", f"{head}mlp.fc1") + dense("pool/mlp/fc2", f"{head}mlp.fc2")
    else:
        ignored += tuple(head + name for name in _HEAD)
    if kwargs["num_classes"]:
        entries += dense("head", "classifier")
    return NameMap(entries, ignored)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`. transformers has no classifier over the attention pooling; timm has."""
    if not is_of(metadata, "vit"):
        return None
    kwargs, image_size = metadata["model"]["kwargs"], metadata["preprocess"]["image_size"]
    pooling, num_classes = kwargs.get("pooling", "token"), kwargs["num_classes"]
    fits = (
        parts.is_plain(kwargs)
        and not parts.tokens_of(kwargs)[0]
        and (pooling == "mean" or (pooling == "map" and not num_classes))
        and image_size[0] == image_size[1]
    )
    if not fits:
        return None
    vision = {
        "model_type": "siglip_vision_model",
        **hf_parts.size_config(kwargs, image_size),
        "intermediate_size": parts.size_of(kwargs)[0].mlp_dim,
        "vision_use_head": pooling == "map",
    }
    if num_classes:
        config = {"architectures": ["SiglipForImageClassification"], "model_type": "siglip", "vision_config": vision}
        config |= hf_parts.label_config(metadata)
    else:
        config = {"architectures": ["SiglipVisionModel"], **vision}
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}
