"""VAR as its authors name it (github.com/FoundationVision/VAR, models/var.py).

They distribute pickles; this reads what `safetensors.torch.save_file` makes of them, also where `var_wo_ddp.` stands
before every name, as in the checkpoints of their training. The maps of tokens are those of 256, 512 or 1024 pixels with
as many tokens; others have to be given as `grids`. The tokenizer is a file of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, dense, fused, linear, same, shape_of
from vit_jax.checkpoints.parts.sam import leading
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.parts.vit import attention_out, depth_of, projection
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.var import VAR, build
from vit_jax.models.var_tokenizer import SCALES

LIBRARY = "var"
MODELS = "VAR"
WRITES = ("var",)
COMPARED = "what the authors' own code computed of three: logits, and tokens drawn with their cache"

_PREFIXES = ("", "var_wo_ddp.")
# Of theirs, which are gate, gate, scale, scale, shift, shift, the one that each of ours is.
_OF_BLOCKS, _OF_THE_END = (4, 2, 0, 5, 3, 1), (1, 0)
# Constants, which their code keeps beside the parameters.
_CONSTANTS = ("lvl_1L", "attn_bias_for_masking", "blocks.*.attn.zero_k_bias")


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    del sidecar
    for prefix in _PREFIXES:
        if f"{prefix}pos_1LC" in tensors and f"{prefix}lvl_embed.weight" in tensors:
            break
    else:
        return None
    if f"{prefix}blocks.0.attn.mat_qkv.weight" not in tensors:
        return None  # HART's
    _, tokens, width = shape_of(tensors, f"{prefix}pos_1LC", 3)
    depth = depth_of(tensors, f"{prefix}blocks.{{}}.")
    first, scale = f"{prefix}blocks.0.", f"{prefix}blocks.0.attn.scale_mul_1H11"
    kwargs = {
        "grids": _grids(tokens, shape_of(tensors, f"{prefix}lvl_embed.weight", 2)[0]),
        "num_classes": shape_of(tensors, f"{prefix}class_emb.weight", 2)[0] - 1,
        "vocab_size": shape_of(tensors, f"{prefix}head.weight", 2)[0],
        "latent_width": shape_of(tensors, f"{prefix}word_embed.weight", 2)[1],
        "depth": depth,
        "width": width,
        "num_heads": shape_of(tensors, scale, 4)[1] if scale in tensors else max(width // 64, 1),
        "mlp_dim": shape_of(tensors, f"{first}ffn.fc1.weight", 2)[0],
        "shared_modulation": f"{first}ada_gss" in tensors,
        "normalized_attention": scale in tensors,
    }
    usual = {"width": 64 * depth, "num_heads": max(width // 64, 1), "mlp_dim": 4 * width, "shared_modulation": False,
             "normalized_attention": True}  # fmt: skip
    kwargs = {name: value for name, value in kwargs.items() if name not in usual or value != usual[name]}
    beside = [name.split(".")[0] + ".*" for name in tensors if not name.startswith(prefix)]
    layout = {"prefix": prefix, "beside": sorted(set(beside))}
    remarks = ("the tokenizer in this file is left out: save it in a file of its own to load it",) if beside else ()
    return Published("var", kwargs, None, layout, remarks=remarks, task={"name": "features", "kwargs": {}})


def _grids(tokens: int, maps: int) -> list[list[int]]:
    """The maps of tokens of the published sizes; of others that have to be given a single one, so that it is found."""
    for scales in SCALES.values():
        if (sum(side**2 for side in scales), len(scales)) == (tokens, maps):
            return [[side, side] for side in scales]
    return [[1, tokens]]


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds what stands before names, `prefix`, and patterns of
    what else is in the file, `beside`."""
    model = build(**complete(build, kwargs))
    if len(model.grids) == 1:
        raise UserError(
            f"The file is for {model.grids[0][1]} tokens, which are not those of 256, 512 or 1024 pixels",
            "Give the rows and columns of its maps of tokens, grids=[[1, 1], [2, 2], ...]",
        )
    prefix, width = layout.get("prefix", ""), model.width
    entries = [
        same("class_embedding", f"{prefix}class_emb.weight"),
        same("level_embedding", f"{prefix}lvl_embed.weight"),
        leading("start_embedding", f"{prefix}pos_start"),
        leading("pos_embedding", f"{prefix}pos_1LC"),
        *dense("word_embedding", f"{prefix}word_embed"),
        *_modulation("norm/modulation", f"{prefix}head_nm.ada_lin.1", _OF_THE_END),
        *dense("head", f"{prefix}head"),
    ]
    if model.style.modulation != "own":
        entries += _modulation("modulation", f"{prefix}shared_ada_lin.1", _OF_BLOCKS)
    for i in range(model.depth):
        ours, theirs = f"block_{i:02d}", f"{prefix}blocks.{i}"
        entries += _attention(f"{ours}/attention", f"{theirs}.attn", model)
        entries += dense(f"{ours}/mlp/fc1", f"{theirs}.ffn.fc1") + dense(f"{ours}/mlp/fc2", f"{theirs}.ffn.fc2")
        if model.style.modulation == "own":
            entries += _modulation(f"{ours}/modulation", f"{theirs}.ada_lin.1", _OF_BLOCKS)
        else:
            entries.append(_table(f"{ours}/modulation_table", f"{theirs}.ada_gss", width))
    ignored = (*(prefix + name for name in _CONSTANTS), *layout.get("beside", ()))
    return NameMap(entries, ignored)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The authors have no such file."""
    if not is_of(metadata, "var"):
        return None
    model = build(**complete(build, metadata["model"]["kwargs"]))
    plain = build(
        grids=model.grids, num_classes=model.num_classes, vocab_size=model.vocab_size, latent_width=model.latent_width,
        depth=model.depth, width=model.width, num_heads=model.style.num_heads, mlp_dim=model.style.mlp_dim,
        shared_modulation=model.style.modulation == "table", normalized_attention=model.style.qk_norm == "l2",
        dropout_rate=model.style.dropout_rate, attention_dropout_rate=model.style.attention_dropout_rate,
    )  # fmt: skip
    return {} if model.style == plain.style else None


def _attention(ours: str, theirs: str, model: VAR) -> list[Entry]:
    width, heads = model.width, model.style.num_heads
    parts = [projection(f"{ours}/{name}", f"{theirs}.mat_qkv.weight", None, width, heads)[0] for name in _QKV]
    shape = (heads, width // heads)
    found = [
        fused([part.ours[0] for part in parts], f"{theirs}.mat_qkv.weight", parts),
        same(f"{ours}/query/bias", f"{theirs}.q_bias", shape, (width,)),
        same(f"{ours}/value/bias", f"{theirs}.v_bias", shape, (width,)),
        *attention_out(f"{ours}/out", f"{theirs}.proj", width, heads),
    ]
    if model.style.qk_norm == "l2":
        found.append(same(f"{ours}/norm_scale", f"{theirs}.scale_mul_1H11", (heads,), (1, heads, 1, 1)))
    return found


_QKV = ("query", "key", "value")


def _modulation(ours: str, theirs: str, order: Sequence[int]) -> list[Entry]:
    """A linear layer whose outputs are several vectors, in another order."""
    parts, back = len(order), list(np.argsort(order))
    kernel = linear(f"{ours}/kernel", f"{theirs}.weight")

    def read(w: NDArray) -> list[NDArray]:
        (matrix,) = kernel.read(w)
        return [np.ascontiguousarray(matrix.reshape(matrix.shape[0], parts, -1)[:, list(order)])]

    def write(x: NDArray) -> list[NDArray]:
        return list(kernel.write(x[:, back].reshape(x.shape[0], -1)))

    return [Entry(kernel.ours, kernel.theirs, read, write), _rows(f"{ours}/bias", f"{theirs}.bias", order)]


def _rows(ours: str, theirs: str, order: Sequence[int], stored: Sequence[int] = (-1,)) -> Entry:
    """Several vectors in another order."""
    back = list(np.argsort(order))
    return Entry(
        (ours,), (theirs,),
        lambda x: [x.reshape(len(order), -1)[list(order)]],
        lambda x: [x[back].reshape(*stored)],
    )  # fmt: skip


def _table(ours: str, theirs: str, width: int) -> Entry:
    return _rows(ours, theirs, _OF_BLOCKS, (1, 1, len(_OF_BLOCKS), width))
