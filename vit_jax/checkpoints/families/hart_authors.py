"""HART's Transformer of texts as its authors name it (github.com/mit-han-lab/hart, hart_transformer_t2i.py).

Files of transformers' kind with a config.json beside them, or what `safetensors.torch.save_file` makes of a pickle.
What neither says is as in the published model: 1,024 pixels and texts of 300 tokens. The tokenizer is a file of its
own.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, dense, linear, same, shape_of
from vit_jax.checkpoints.parts import diffusion_head, var
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.hart import HART, build
from vit_jax.models.var_tokenizer import SCALES

LIBRARY = "hart"
MODELS = "HART of texts"
WRITES = ("hart",)
COMPARED = (
    "what the authors' own code computed of two: training, and images drawn in 1 and 3 passes over the last scale"
)

_HEAD = "diffloss.net."
_LENGTH = 300


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if "context_embed.weight" not in tensors or "blocks.0.attn.qkv_proj.weight" not in tensors:
        return None
    width, text_width = shape_of(tensors, "context_embed.weight", 2)
    scale, adaptive = "blocks.0.attn.scale_mul_1H11", "blocks.0.ada_lin.1.weight" in tensors
    hidden = "blocks.0.ffn.fc1.weight" if adaptive else "blocks.0.ffn.up_proj.weight"
    config = sidecar.config
    kwargs = {
        "grids": _grids(config),
        "vocab_size": shape_of(tensors, "head.weight", 2)[0],
        "latent_width": shape_of(tensors, "word_embed.weight", 2)[1],
        "text_width": text_width,
        "text_length": config.integer("context_token", _LENGTH, at_least=1, at_most=2**15),
        "text_norm": "context_norm.weight" in tensors,
        "width": width,
        "depth": depth_of(tensors, "blocks.{}."),
        "num_heads": shape_of(tensors, scale, 4)[1] if scale in tensors else max(width // 64, 1),
        "mlp_dim": shape_of(tensors, hidden, 2)[0],
        "adaptive": adaptive,
        "step_features": "lvl_embed.mlp.0.weight" in tensors,
        "normalized_attention": scale in tensors,
        **diffusion_head.arguments_of(tensors, _HEAD),
    }
    return Published("hart", kwargs, None, task={"name": "features", "kwargs": {}})


def _grids(config: JsonObject) -> list[list[int]]:
    sides = config.integers("patch_nums", at_least=1, at_most=2**12) or SCALES[max(SCALES)]
    return [[side, side] for side in sides]


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    model = build(**complete(build, kwargs))
    head = {"head_width": model.residual.width, "head_depth": model.residual.depth}
    entries = [
        *dense("context", "context_embed"),
        *dense("word", "word_embed"),
        same("norm/scale", "head_nm.ln_wo_grad.weight"),
        *var.modulation("norm_modulation", "head_nm.ada_lin.1", var.OF_THE_END),
        *dense("head", "head"),
        same("residual_norm/scale", "decoder_norm.weight"),
        *diffusion_head.entries("residual/", _HEAD, head),
    ]
    if model.asked.text_norm:
        entries.append(same("context_norm/scale", "context_norm.weight"))
    if model.step_features:
        entries += dense("steps/fc1", "lvl_embed.mlp.0") + dense("steps/fc2", "lvl_embed.mlp.2")
    else:
        entries.append(same("step_embedding", "lvl_embed.weight"))
    for i in range(model.depth):
        entries += _block(f"block_{i:02d}", f"blocks.{i}", model)
    return NameMap(entries, ignored=var.CONSTANTS)


def _block(ours: str, theirs: str, model: HART) -> list[Entry]:
    entries = [
        same(f"{ours}/norm/scale", f"{theirs}.ln_wo_grad.weight"),
        *var.attention(f"{ours}/attention", f"{theirs}.attn", "qkv_proj", model.width, model.style),
    ]
    if model.style.norm == "adaptive":
        entries += var.modulation(f"{ours}/modulation", f"{theirs}.ada_lin.1", var.OF_BLOCKS)
    if not model.style.gated:
        return entries + dense(f"{ours}/mlp/fc1", f"{theirs}.ffn.fc1") + dense(f"{ours}/mlp/fc2", f"{theirs}.ffn.fc2")
    names = {"gate": "gate_proj", "fc1": "up_proj", "fc2": "down_proj"}
    return entries + [linear(f"{ours}/mlp/{k}/kernel", f"{theirs}.ffn.{name}.weight") for k, name in names.items()]


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "hart"):
        return None
    model = build(**complete(build, metadata["model"]["kwargs"]))
    if model.asked.num_classes:
        return None
    sides = [rows for rows, _ in model.grids]
    values = {"model_type": "hart_transformer_t2i", "patch_nums": sides, "context_token": model.asked.text_length}
    return {"config.json": values}
