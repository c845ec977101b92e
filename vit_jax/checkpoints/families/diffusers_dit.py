"""DiT as diffusers names it (`DiTTransformer2DModel`), where every block has the embedders of time and class again."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import DIFFUSERS_DIT
from vit_jax.checkpoints.json_file import shown
from vit_jax.checkpoints.name_map import NameMap, Shapes, convolution, dense, repeated, same, shape_of
from vit_jax.checkpoints.parts import diffusers_scheduler
from vit_jax.checkpoints.parts import dit as parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.parts.vit import attention_out, depth_of, projection
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.dit import build
from vit_jax.nn.block import PARTS

LIBRARY = "diffusers"
MODELS = "DiTTransformer2DModel"
WRITES = ("dit",)
COMPARED = "predictions of diffusers' own model; files of ours read by diffusers"

_CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # the second in published files
_BLOCK = "transformer_blocks.{}."
_TIME, _LABELS = "norm1.emb.timestep_embedder.linear_", "norm1.emb.class_embedder.embedding_table.weight"
SIDE, _EPSILON = 32, 1e-5  # where nothing is said


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    first = _BLOCK.format(0)
    if not {"pos_embed.proj.weight", "proj_out_1.weight", first + _LABELS} <= tensors.keys():
        return None
    config = sidecar.config
    said = config.text("_class_name")
    if said is not None and said not in _CLASSES:
        raise config.error("_class_name", f"is {shown(said)}, a model that vit_jax does not have", "Load another model")
    DIFFUSERS_DIT.check(config)
    kwargs = parts.kwargs_of(
        tensors, "pos_embed.proj.weight", depth_of(tensors, _BLOCK), f"{first}ff.net.0.proj.weight",
        "proj_out_2.weight", config.integer("num_attention_heads", 16, at_least=1),
    )  # fmt: skip
    side = config.integer("sample_size", SIDE, at_least=1)
    patch = shape_of(tensors, "pos_embed.proj.weight", 4)[2]
    kwargs |= {
        "num_classes": shape_of(tensors, first + _LABELS, 2)[0],
        "grid_side": max(side // patch, 1),
        # The authors' is 0, with which the published weights were trained.
        "time_shift": 1,
        "norm2_epsilon": config.number("norm_eps", _EPSILON, above=0),
    }
    if rate := config.number("dropout", 0.0, at_least=0):
        kwargs["dropout_rate"] = rate
    remarks = (
        "the time is embedded as diffusers does it, with a shift of 1; DiT's authors, who trained the published "
        "weights, have none: overrides={'time_shift': 0}",
    )
    return parts.published(kwargs, side, {}, *remarks, scheduler=sidecar.scheduler)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    model = build(**complete(build, kwargs))
    width, heads = model.width, model.style.num_heads

    def in_blocks(name: str) -> list[str]:
        return [_BLOCK.format(i) + name for i in range(model.depth)]

    embedders = [
        *dense("time/fc1", f"{_TIME}1"),
        *dense("time/fc2", f"{_TIME}2"),
        same("classes/embedding", _LABELS),
    ]
    entries = [
        repeated(entry, in_blocks(entry.theirs[0]), "Only files that have one embedder again and again can be read")
        for entry in embedders
    ]
    entries += convolution("embedding", "pos_embed.proj")
    entries += [*parts.modulation("norm/modulation", "proj_out_1", width, 2), *dense("output", "proj_out_2")]
    for i in range(model.depth):
        ours, theirs = f"block_{i:02d}", _BLOCK.format(i)
        for name, there in (("query", "to_q"), ("key", "to_k"), ("value", "to_v")):
            weight, bias = (f"{theirs}attn1.{there}.{kind}" for kind in ("weight", "bias"))
            entries += projection(f"{ours}/attention/{name}", weight, bias, width, heads)
        entries += attention_out(f"{ours}/attention/out", f"{theirs}attn1.to_out.0", width, heads)
        entries += dense(f"{ours}/mlp/fc1", f"{theirs}ff.net.0.proj") + dense(f"{ours}/mlp/fc2", f"{theirs}ff.net.2")
        entries += parts.modulation(f"{ours}/modulation", f"{theirs}norm1.linear", width, PARTS)
    return NameMap(entries)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    task = metadata.get("task") or {"kwargs": {}}
    if not is_of(metadata, "dit") or task["kwargs"].get("tokenizer"):  # with its autoencoder it is a pipeline
        return None
    model = build(**complete(build, metadata["model"]["kwargs"]))
    style, heads = model.style, model.style.num_heads
    epsilon = style.norm_epsilon if style.norm2_epsilon is None else style.norm2_epsilon
    plain = build(
        width=model.width, num_heads=heads, mlp_dim=4 * model.width, norm2_epsilon=style.norm2_epsilon,
        dropout_rate=style.dropout_rate,
    )  # fmt: skip
    if style != plain.style or model.time_shift != 1 or model.grid_side is None or model.num_classes < 2:
        return None
    config = {
        "_class_name": _CLASSES[0],
        "num_attention_heads": heads,
        "attention_head_dim": model.width // heads,
        "in_channels": model.inputs,
        "out_channels": model.outputs,
        "num_layers": model.depth,
        "dropout": style.dropout_rate,
        "sample_size": model.grid_side * model.patch_size,
        "patch_size": model.patch_size,
        "num_embeds_ada_norm": model.num_classes - 1,
        "norm_eps": epsilon,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "attention_bias": True,
        "upcast_attention": False,
    }
    return {"config.json": config, **diffusers_scheduler.files_of_pixels(metadata.get("task"))}
