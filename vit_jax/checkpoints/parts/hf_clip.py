"""The towers of transformers' CLIP: arguments from tensors and config.json, names, and config.json again."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import Entry, Shapes, conv, norm, shape_of
from vit_jax.checkpoints.parts import clip as clip_parts
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor, towers
from vit_jax.checkpoints.parts import text as text_parts
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.published import Sidecar
from vit_jax.models.vit import ViT
from vit_jax.models.vit_variants import Variant
from vit_jax.nn.text_trunk import TextTrunk

_LAYER = "encoder.layers.{}."
_HIDDEN = {"gelu_tanh": "gelu_pytorch_tanh"}  # of two names for the same function the one that newer files have


def style(config: JsonObject, activation: str = "quick_gelu", epsilon: float = 1e-5) -> dict[str, Any]:
    """What all blocks of a tower compute with; the defaults are those of CLIP's class of configs."""
    return {
        "activation": text_parts.activation_of(config.text("hidden_act", activation)),
        "norm_epsilon": config.number("layer_norm_eps", epsilon, at_least=0),
    }


def vision(
    tensors: Shapes, config: JsonObject, prefix: str
) -> tuple[dict[str, Any], dict[str, Any], list[int], list[int]]:
    """Of a vision tower: arguments of its size, its style, the grid of its positions, and its image size [h, w]."""
    kernel = shape_of(tensors, f"{prefix}embeddings.patch_embedding.weight", 4)
    positions = f"{prefix}embeddings.position_embedding.weight"
    grid = hf_parts.grid(config, shape_of(tensors, positions, 2)[0] - 1, kernel[2], positions)
    image_size = [side * kernel[2] for side in grid]
    size = Variant(**_size(tensors, config, prefix, 12))
    config.must_agree("patch_size", kernel[2])
    return clip_parts.vit_tower(size, kernel[2:], image_size[0]), style(config), grid, image_size


def text(tensors: Shapes, config: JsonObject, prefix: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Of CLIP's text tower: its size, its style, and how many tokens it knows."""
    size, vocab_size = text_size(tensors, config, prefix, 8)
    return size, style(config), vocab_size


def text_size(tensors: Shapes, config: JsonObject, prefix: str, heads: int) -> tuple[dict[str, Any], int]:
    """Of a text tower its size, and how many tokens it knows; `heads` are those of its class of configs."""
    vocab_size = shape_of(tensors, f"{prefix}embeddings.token_embedding.weight", 2)[0]
    length = shape_of(tensors, f"{prefix}embeddings.position_embedding.weight", 2)[0]
    config.must_agree("vocab_size", vocab_size)
    config.must_agree("max_position_embeddings", length)
    return _size(tensors, config, prefix, heads) | {"max_length": length}, vocab_size


def _size(tensors: Shapes, config: JsonObject, prefix: str, heads: int) -> dict[str, int]:
    mlp_dim, width = shape_of(tensors, f"{prefix}{_LAYER.format(0)}mlp.fc1.weight", 2)
    depth = parts.depth_of(tensors, prefix + _LAYER)
    for key, found in {"hidden_size": width, "num_hidden_layers": depth, "intermediate_size": mlp_dim}.items():
        config.must_agree(key, found)
    num_heads = text_parts.heads_of(config, "num_attention_heads", width, heads)
    return {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": num_heads}


def pixels(sidecar: Sidecar, image_size: Sequence[int], grid: Sequence[int]) -> dict[str, Any]:
    """How images are prepared, by CLIP's statistics where nothing says otherwise."""
    default = {**towers.CLIP_PIXELS, "resize_to": max(image_size)}
    return hf_processor.preprocess(sidecar.preprocessor, image_size, default, "CLIP", image_size[0] // grid[0])


def vision_entries(tower: ViT, prefix: str, grid: Sequence[int] | None) -> list[Entry]:
    """A vision tower without its projection; "pre_layrnorm" is how they spell it."""
    arguments = towers.vit_arguments(tower)
    embeddings = f"{prefix}embeddings."
    return [
        conv("encoder/embedding/kernel", f"{embeddings}patch_embedding.weight"),
        towers.hf_class_token(f"{embeddings}class_embedding"),
        parts.position_entry(arguments, f"{embeddings}position_embedding.weight", grid, leading=False),
        *norm("encoder/norm_embedding", f"{prefix}pre_layrnorm"),
        *parts.block_entries(arguments, towers.hf_block_names(prefix + _LAYER)),
        *norm("encoder/norm", f"{prefix}post_layernorm"),
    ]


def vision_config(tower: ViT, image_size: Sequence[int]) -> dict[str, Any]:
    """The entries of config.json that say what a vision tower is."""
    encoder = tower.encoder
    return trunk_config(encoder) | {
        "image_size": image_size[0], "patch_size": encoder.patch_size[0], "num_channels": 3,
    }  # fmt: skip


def text_config(trunk: TextTrunk) -> dict[str, Any]:
    """The same of a text tower."""
    return trunk_config(trunk) | {"vocab_size": trunk.vocab_size, "max_position_embeddings": trunk.max_length}


def trunk_config(trunk: Any) -> dict[str, Any]:
    """The entries for the blocks of either."""
    activation = trunk.style.activation
    return {
        "hidden_size": trunk.width,
        "num_hidden_layers": trunk.depth,
        "num_attention_heads": trunk.style.num_heads,
        "intermediate_size": trunk.style.mlp_dim,
        "hidden_act": _HIDDEN.get(activation) or text_parts.activation_name(activation),
        "layer_norm_eps": trunk.style.norm_epsilon,
    }


def tower_arguments(size: Mapping[str, Any], of_style: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `vit_jax.models.vit.build` for CLIP's vision tower alone."""
    own = {"patch_bias": False, "embedding_norm": True, "hidden_dropout": False, "posemb_resize": "bicubic"}
    return {**size, "variant": size["variant"].partition("@")[0], "num_classes": 0, "pooling": "token"} | own | of_style
