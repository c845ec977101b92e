"""What the families of models of images and texts have in common: their towers as arguments, names and fields."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.checkpoints.name_map import Entry, NDArray, linear, norm, same
from vit_jax.checkpoints.parts import text as text_parts
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.published import Sidecar
from vit_jax.models.text_tower import TextTower
from vit_jax.models.vit import ViT
from vit_jax.nn.text_trunk import TextTrunk
from vit_jax.nn.two_towers import TwoTowers

# OpenAI's statistics of pixels, in 0..255, and the crop that goes with them.
CLIP_PIXELS = {
    "resize": "short_side",
    "interpolation": "bicubic",
    "crop": "floor",
    "mean": [122.770938, 116.746013, 104.093736],
    "std": [68.500533, 66.632158, 70.323163],
}
NUMBERS = "no vocabulary beside it: texts are given as numbers of tokens, such as '12 7 305', without start and end"

_TOWER_LAYERS = {
    "norm1": "layer_norm1", "qkv": tuple(f"self_attn.{part}_proj" for part in "qkv"), "out": "self_attn.out_proj",
    "norm2": "layer_norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
}  # fmt: skip


def vit_arguments(tower: ViT) -> dict[str, Any]:
    """What `parts.vit` asks about an image tower: the arguments of `vit_jax.models.vit.build` that say the same."""
    encoder = tower.encoder
    return _size_arguments(encoder, encoder.patch_size[0]) | {
        "pooling": tower.pooling,
        "class_token": encoder.tokens.class_token,
        "class_token_posemb": encoder.positions.class_token_posemb,
        "posemb": encoder.positions.posemb,
        "num_classes": 0,
    }


def text_arguments(trunk: TextTrunk) -> dict[str, Any]:
    """The same of the blocks of a text tower."""
    return _size_arguments(trunk, 16)


def _size_arguments(trunk: Any, patch: int) -> dict[str, Any]:
    size = {"width": trunk.width, "depth": trunk.depth}
    return {"variant": f"B/{patch}", **size, "num_heads": trunk.style.num_heads, "mlp_dim": trunk.style.mlp_dim}


def hf_block_names(layer: str) -> parts.BlockNames:
    """Names in the layers of transformers' CLIP and SigLIP, of both towers; `layer` has {} for the number."""
    whole = {k: tuple(layer + x for x in v) if k == "qkv" else layer + v for k, v in _TOWER_LAYERS.items()}
    return parts.BlockNames(**whole)


def hf_text_entries(trunk: TextTrunk, prefix: str = "text_model.") -> list[Entry]:
    """The text tower of both, without what comes after the pooling."""
    return [
        same("text/embedding", f"{prefix}embeddings.token_embedding.weight"),
        same("text/pos_embedding", f"{prefix}embeddings.position_embedding.weight"),
        *parts.block_entries(text_arguments(trunk), hf_block_names(f"{prefix}encoder.layers.{{}}."), "text"),
        *norm("text/norm", f"{prefix}final_layer_norm"),
    ]


def hf_class_token(theirs: str) -> Entry:
    """A class token, a row there."""
    return same("encoder/cls", theirs, (1, 1, -1), (-1,))


def scalar(ours: str, theirs: str, stored: Sequence[int]) -> Entry:
    """One number, which some files keep as an array [1]."""
    return same(ours, theirs, (), stored)


def projections(model: TwoTowers, image: str, text: str) -> list[Entry]:
    """The linear layers of both sides as PyTorch's, by the names of the layers."""
    entries = []
    for side, kind, theirs in (("image", model.project_image, image), ("text", model.project_text, text)):
        if kind != "none":
            entries.append(linear(f"{side}_projection/kernel", f"{theirs}.weight"))
        if kind == "bias":
            entries.append(same(f"{side}_projection/bias", f"{theirs}.bias"))
    return entries


def log_scale_limit(tensor: NDArray, limit: float = 100.0) -> float | None:
    """The limit on what cosines are multiplied by, where a trained one, given as a logarithm, keeps to it; else None:
    the library that wrote the file does not limit it in use."""
    scale = np.asarray(tensor, np.float64).reshape(-1)
    return limit if scale.size == 1 and scale[0] <= np.log(limit) * (1 + 1e-6) else None  # as float32 has it


def clip_field(
    sidecar: Sidecar, vocab_size: int, length: int, ends: tuple[int, int] | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The field of texts of a CLIP, and what has to be said about it.

    With as many tokens as OpenAI's vocabulary has it is that one, or what lies beside the file. Padding is 0, as in
    OpenAI's code; transformers pads with the end token. No token sees what comes after it, so that either gives the
    same text.

    Args:
        ends: the ids of start and end; the last two of a vocabulary by default, as in OpenAI's.
    """
    if vocab_size == CLIP_VOCABULARY:
        section, _ = text_parts.section_of(sidecar, vocab_size, {"merges.txt": {"name": "clip_bpe"}})
        return text_parts.tokens_section(section or {"name": "clip_bpe"}, length, bos=True, eos=True), ()
    first, last = ends or (vocab_size - 2, vocab_size - 1)
    ids = {"name": "ids", "vocab_size": vocab_size, "bos_id": first, "eos_id": last}
    return text_parts.tokens_section(ids, length, bos=True, eos=True), (NUMBERS,)


CLIP_VOCABULARY = 49408


def is_clip_text(tower: Any) -> bool:
    """Whether a text tower is one that libraries call CLIP's, whatever its size, activation and epsilon."""
    return (
        isinstance(tower, TextTower)
        and tower.text.mask == "causal"
        and tower.pooling == "end"
        and is_plain_trunk(tower.text)
    )


def is_plain_trunk(trunk: Any) -> bool:
    """Whether the blocks of a trunk are ViT's of the first paper, but for sizes, activation and epsilon."""
    style = trunk.style
    plain = type(style)(
        num_heads=style.num_heads, mlp_dim=style.mlp_dim, norm_epsilon=style.norm_epsilon, activation=style.activation,
        dropout_rate=style.dropout_rate, hidden_dropout=style.hidden_dropout,
        attention_dropout_rate=style.attention_dropout_rate,
    )  # fmt: skip
    return style == plain


def is_clip_vit(tower: Any) -> bool:
    """Whether an image tower is CLIP's, whatever its size, activation and epsilon."""
    if type(tower) is not ViT or tower.pooling != "token" or tower.fc_norm or tower.representation_size:
        return False
    encoder = tower.encoder
    return (
        encoder.embedding_norm
        and not encoder.patch_bias
        and encoder.tokens.count == 1
        and encoder.positions.class_token_posemb
        and encoder.stem is None
        and is_plain_trunk(encoder)
    )


def is_plain_vit(tower: Any) -> bool:
    """Whether an image tower is a ViT with nothing that came after the first papers."""
    if type(tower) is not ViT or tower.pooling not in ("token", "mean", "map") or tower.fc_norm:
        return False
    encoder = tower.encoder
    extra = encoder.tokens.distillation_token or encoder.tokens.num_registers
    return (
        not extra
        and encoder.stem is None
        and not encoder.embedding_norm
        and encoder.patch_bias
        and is_plain_trunk(encoder)
    )
