"""DiT as its authors name it (github.com/facebookresearch/DiT, models.py).

They distribute pickles; this reads what `safetensors.torch.save_file` makes of them. Nothing says how many heads there
are: 16 in a width of 1152, else each of 64.
"""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, Shapes, convolution, dense, same, shape_of
from vit_jax.checkpoints.parts import dit as parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.parts.vit import attention_out, depth_of, fixed_table, fused_projections
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.dit import DIALECT, build
from vit_jax.nn.block import PARTS

LIBRARY = "dit"
MODELS = "DiT"
WRITES = ("dit",)
COMPARED = "diffusers' own model on the same numbers; names and shapes of XL/2 are the published ones"

_PATCHES, _LABELS, _POSITIONS = "x_embedder.proj.weight", "y_embedder.embedding_table.weight", "pos_embed"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not {_PATCHES, _LABELS, _POSITIONS, "final_layer.adaLN_modulation.1.weight"} <= tensors.keys():
        return None
    depth = depth_of(tensors, "blocks.{}.")
    heads = sidecar.config.integer("num_heads", at_least=1)
    kwargs = parts.kwargs_of(
        tensors, _PATCHES, depth, "blocks.0.mlp.fc1.weight", "final_layer.linear.weight", heads
    )  # fmt: skip
    positions = shape_of(tensors, _POSITIONS, 3)[1]
    side = math.isqrt(positions)
    if side * side != positions:
        raise UserError(f"There are {positions} positions, which are no square", "Only models of squares can be read")
    kwargs |= {"num_classes": shape_of(tensors, _LABELS, 2)[0], "grid_side": side}
    return parts.published(kwargs, side * shape_of(tensors, _PATCHES, 4)[2], {})


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    model = build(**complete(build, kwargs))
    if model.grid_side is None:
        raise UserError("Nothing says for which grid of patches this DiT is", "Set config.model.grid_side")
    width, heads, grid = model.width, model.style.num_heads, (model.grid_side, model.grid_side)
    entries = [
        fixed_table(_POSITIONS, DIALECT, grid, width, prefix=0),
        *convolution("embedding", "x_embedder.proj"),
        *dense("time/fc1", "t_embedder.mlp.0"),
        *dense("time/fc2", "t_embedder.mlp.2"),
        same("classes/embedding", _LABELS),
        *parts.modulation("norm/modulation", "final_layer.adaLN_modulation.1", width, 2),
        *dense("output", "final_layer.linear"),
    ]
    for i in range(model.depth):
        ours, theirs = f"block_{i:02d}", f"blocks.{i}"
        weight, bias = (f"{theirs}.attn.qkv.{kind}" for kind in ("weight", "bias"))
        entries += fused_projections(f"{ours}/attention", ("query", "key", "value"), weight, bias, width, heads)
        entries += attention_out(f"{ours}/attention/out", f"{theirs}.attn.proj", width, heads)
        entries += dense(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1") + dense(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2")
        entries += parts.modulation(f"{ours}/modulation", f"{theirs}.adaLN_modulation.1", width, PARTS)
    return NameMap(entries)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`: what the names do not say."""
    if not is_of(metadata, "dit"):
        return None
    model = build(**complete(build, metadata["model"]["kwargs"]))
    plain = build(width=model.width, num_heads=model.style.num_heads, mlp_dim=model.style.mlp_dim)
    if model.style != plain.style or model.time_shift or model.grid_side is None or not model.num_classes:
        return None
    return {"config.json": {"num_heads": model.style.num_heads}}
