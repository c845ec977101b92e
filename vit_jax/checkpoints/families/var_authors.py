"""VAR as its authors name it (github.com/FoundationVision/VAR, models/var.py).

They distribute pickles; this reads what `safetensors.torch.save_file` makes of them. In one file with its tokenizer, as
in the checkpoints of their training, the generator's names begin with `var_wo_ddp.` and the tokenizer's with
`vae_local.`: such a file draws images. Maps of tokens are those of config.json, the arguments of the authors' class, or
without one those of 256, 512 or 1024 pixels with as many tokens; others have to be given as `grids`.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.families import var_tokenizer_authors
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, dense, same, shape_of
from vit_jax.checkpoints.parts.sam import leading
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.parts.var import CONSTANTS, OF_BLOCKS, OF_THE_END, attention, modulation, rows
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.var import build
from vit_jax.models.var_tokenizer import SCALES

LIBRARY = "var"
MODELS = "VAR"
WRITES = ("var",)
COMPARED = "what the authors' own code computed of three: logits, and tokens drawn with their cache"

_PREFIXES = ("", "var_wo_ddp.")
# What the task says of the model.
_GIVEN = ["grids", "num_classes", "vocab_size", "latent_width"]


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    for prefix in _PREFIXES:
        if f"{prefix}pos_1LC" in tensors and f"{prefix}lvl_embed.weight" in tensors:
            break
    else:
        return None
    if f"{prefix}blocks.0.attn.mat_qkv.weight" not in tensors:
        return None  # HART's
    width = shape_of(tensors, f"{prefix}pos_1LC", 3)[2]
    depth = depth_of(tensors, f"{prefix}blocks.{{}}.")
    first, scale = f"{prefix}blocks.0.", f"{prefix}blocks.0.attn.scale_mul_1H11"
    heads = shape_of(tensors, scale, 4)[1] if scale in tensors else sidecar.config.integer("num_heads", at_least=1)
    kwargs = {
        "grids": _grids(tensors, prefix, sidecar),
        "num_classes": shape_of(tensors, f"{prefix}class_emb.weight", 2)[0] - 1,
        "vocab_size": shape_of(tensors, f"{prefix}head.weight", 2)[0],
        "latent_width": shape_of(tensors, f"{prefix}word_embed.weight", 2)[1],
        "depth": depth,
        "width": width,
        "num_heads": heads or max(width // 64, 1),
        "mlp_dim": shape_of(tensors, f"{first}ffn.fc1.weight", 2)[0],
        "shared_modulation": f"{first}ada_gss" in tensors,
        "normalized_attention": scale in tensors,
        "norm_epsilon": sidecar.config.number("norm_eps", 1e-6, at_least=0),
    }
    usual = {"width": 64 * depth, "num_heads": max(width // 64, 1), "mlp_dim": 4 * width, "shared_modulation": False,
             "normalized_attention": True, "norm_epsilon": 1e-6}  # fmt: skip
    kwargs = {name: value for name, value in kwargs.items() if name not in usual or value != usual[name]}
    others = {name: shape for name, shape in tensors.items() if not name.startswith(prefix)}
    tokenizer = var_tokenizer_authors.describe(others, Sidecar())
    if tokenizer is None:
        return Published("var", kwargs, None, {"prefix": prefix}, task={"name": "features", "kwargs": {}})
    made = dict(tokenizer.kwargs)
    if tuple(rows for rows, _ in kwargs["grids"]) not in SCALES.values():
        made["scales"] = [rows for rows, _ in kwargs["grids"]]
    side = 2 ** (len(made["multipliers"]) - 1) * kwargs["grids"][-1][0]
    return Published(
        "var", kwargs, var_tokenizer_authors.preprocess(side),
        {"prefix": prefix, "beside": {"tokenizer": {"name": "var_tokenizer", "kwargs": made}}},
        task={"name": "var", "kwargs": {"tokenizer": {"name": "var_tokenizer", **made}}, "given": _GIVEN},
    )  # fmt: skip


def _grids(tensors: Shapes, prefix: str, sidecar: Sidecar) -> list[list[int]]:
    """The maps of tokens; where nothing says them a single one, so that it is found."""
    tokens = shape_of(tensors, f"{prefix}pos_1LC", 3)[1]
    maps = shape_of(tensors, f"{prefix}lvl_embed.weight", 2)[0]
    said = sidecar.config.integers("patch_nums", at_least=1)
    for scales in SCALES.values() if said is None else [said]:
        if (sum(side**2 for side in scales), len(scales)) == (tokens, maps):
            return [[side, side] for side in scales]
    if said is not None:
        raise sidecar.config.error("patch_nums", f"is {said}", f"The file is for {tokens} tokens in {maps} maps")
    return [[1, tokens]]


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds what stands before names, `prefix`."""
    model = build(**complete(build, kwargs))
    if len(model.grids) == 1:
        raise UserError(
            f"The file is for {model.grids[0][1]} tokens, which are not those of 256, 512 or 1024 pixels",
            "Give the rows and columns of its maps of tokens, grids=[[1, 1], [2, 2], ...]",
        )
    tokenizer = layout.get("beside", {}).get("tokenizer")
    prefix, width = layout.get("prefix", "" if tokenizer is None else _PREFIXES[-1]), model.width
    entries = [
        same("class_embedding", f"{prefix}class_emb.weight"),
        same("level_embedding", f"{prefix}lvl_embed.weight"),
        leading("start_embedding", f"{prefix}pos_start"),
        leading("pos_embedding", f"{prefix}pos_1LC"),
        *dense("word_embedding", f"{prefix}word_embed"),
        *modulation("norm/modulation", f"{prefix}head_nm.ada_lin.1", OF_THE_END),
        *dense("head", f"{prefix}head"),
    ]
    if model.style.modulation != "own":
        entries += modulation("modulation", f"{prefix}shared_ada_lin.1", OF_BLOCKS)
    for i in range(model.depth):
        ours, theirs = f"block_{i:02d}", f"{prefix}blocks.{i}"
        entries += attention(f"{ours}/attention", f"{theirs}.attn", "mat_qkv", width, model.style)
        entries += dense(f"{ours}/mlp/fc1", f"{theirs}.ffn.fc1") + dense(f"{ours}/mlp/fc2", f"{theirs}.ffn.fc2")
        if model.style.modulation == "own":
            entries += modulation(f"{ours}/modulation", f"{theirs}.ada_lin.1", OF_BLOCKS)
        else:
            entries.append(_table(f"{ours}/modulation_table", f"{theirs}.ada_gss", width))
    ignored, training = [prefix + name for name in CONSTANTS], ()
    if tokenizer is not None:
        beside = var_tokenizer_authors.name_map(tokenizer["kwargs"], {"prefix": var_tokenizer_authors.PREFIX})
        beside = beside.below("tokenizer/")
        entries, ignored, training = [*entries, *beside.entries], [*ignored, *beside.ignored], beside.training
    return NameMap(entries, tuple(ignored), training)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`: the arguments of the authors' class, as `VARHF` saves them."""
    if not is_of(metadata, "var"):
        return None
    model = build(**complete(build, metadata["model"]["kwargs"]))
    plain = build(
        grids=model.grids, num_classes=model.num_classes, vocab_size=model.vocab_size, latent_width=model.latent_width,
        depth=model.depth, width=model.width, num_heads=model.style.num_heads, mlp_dim=model.style.mlp_dim,
        shared_modulation=model.style.modulation == "table", normalized_attention=model.style.qk_norm == "l2",
        norm_epsilon=model.style.norm_epsilon, dropout_rate=model.style.dropout_rate,
        attention_dropout_rate=model.style.attention_dropout_rate,
    )  # fmt: skip
    if model.style != plain.style or any(rows != columns for rows, columns in model.grids):
        return None
    config = {
        "num_classes": model.num_classes,
        "depth": model.depth,
        "embed_dim": model.width,
        "num_heads": model.style.num_heads,
        "mlp_ratio": model.style.mlp_dim / model.width,
        "norm_eps": model.style.norm_epsilon,
        "shared_aln": model.style.modulation == "table",
        "attn_l2_norm": model.style.qk_norm == "l2",
        "patch_nums": [rows for rows, _ in model.grids],
    }
    return {"config.json": config}


def _table(ours: str, theirs: str, width: int) -> Entry:
    return rows(ours, theirs, OF_BLOCKS, (1, 1, len(OF_BLOCKS), width))
