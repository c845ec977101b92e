"""ViTDet's backbone as transformers names it (`VitDetBackbone`, `VitDetModel`).

Its absolute positions are those of the size of its pretraining, behind one of a class token that it does not have. When
it runs, transformers leaves that out and interpolates the others bicubically; here that is done once, when it is read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.checkpoints.config_keys import HF_VITDET
from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor
from vit_jax.checkpoints.parts import sam as parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.parts.vit import depth_of, gelu_of, grid_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.vitdet import build
from vit_jax.nn.resize import resize_bicubic

LIBRARY = "transformers"
MODELS = "ViTDet's backbone"
WRITES = ("vitdet",)
COMPARED = "the map of transformers' own backbones, at the size of pretraining and at another, with and without tables"

_NAMES = parts.TrunkNames(
    positions="embeddings.position_embeddings",
    patch="embeddings.projection",
    block="encoder.layer.{}.",
    norm1="norm1",
    norm2="norm2",
    attention="attention",
    fc1="mlp.fc1",
    fc2="mlp.fc2",
)


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if f"{_NAMES.patch}.weight" not in tensors or "encoder.layer.0.attention.qkv.weight" not in tensors:
        return None
    config = sidecar.config
    if not config:
        raise UserError(
            "A ViTDet without a config.json does not say which blocks have windows", "Put its config.json beside it"
        )
    remarks = hf_parts.check(config, HF_VITDET, "vitdet")
    hf_parts.agrees(config, "use_relative_position_embeddings", _NAMES.tables[0].format(0) in tensors)
    patch = shape_of(tensors, f"{_NAMES.patch}.weight", 4)[2]
    config.must_agree("patch_size", patch)
    # A config.json leaves out what is the default of its class.
    size = config.sides("image_size") or [224, 224]
    depth = depth_of(tensors, _NAMES.block)
    windowed = config.integers("window_block_indices") or []
    window = config.integer("window_size", 0) or None
    in_all = [i for i in range(depth) if window is None or i not in windowed]
    heads = config.integer("num_attention_heads", 12, at_least=1)
    grid = [side // patch for side in size]
    kwargs = parts.trunk_kwargs(tensors, _NAMES, grid, heads, window if windowed else None, in_all)
    kwargs["num_classes"] = 0
    if gelu_of(config.text("hidden_act", "gelu")) != "exact":
        kwargs["activation"] = "gelu_tanh"
    if (epsilon := config.number("layer_norm_eps", 1e-6, at_least=0)) != 1e-6:
        kwargs["norm_epsilon"] = epsilon
    layout = {"positions": shape_of(tensors, _NAMES.positions, 3)[1], "grid": grid}
    default = {"resize": "squash", "interpolation": "bilinear", **IMAGENET}
    pixels = hf_processor.preprocess(sidecar.preprocessor, size, default, "ViT")
    return Published("vitdet", kwargs, pixels, layout, remarks=remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds the number of `positions`, and the `grid` of the
    map."""
    encoder = build(**complete(build, kwargs)).encoder
    grid = layout.get("grid") or [side // encoder.patch_size for side in layout["image_size"]]
    positions = _positions(encoder.width, grid, layout.get("positions") or 1 + grid[0] * grid[1])
    return NameMap(parts.trunk_entries(encoder, _NAMES, parts.fused_attention, positions))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. It has squares of pixels only, and no head."""
    if not is_of(metadata, "vitdet"):
        return None
    kwargs, (height, width) = metadata["model"]["kwargs"], metadata["preprocess"]["image_size"]
    encoder = build(**complete(build, kwargs)).encoder
    if height != width or kwargs["num_classes"] or not parts.is_plain_trunk(encoder):
        return None
    style, windows = encoder.styles[0], parts.windows_of(encoder)
    if style.mlp_dim % encoder.width:
        return None
    config = {
        "architectures": ["VitDetBackbone"],
        "model_type": "vitdet",
        "dtype": "float32",
        "image_size": height,
        "pretrain_image_size": height,
        "patch_size": encoder.patch_size,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": style.num_heads,
        "mlp_ratio": style.mlp_dim // encoder.width,
        "hidden_act": parts.ACTIVATIONS[style.activation],
        "layer_norm_eps": style.norm_epsilon,
        "window_size": max(window or 0 for window in windows),
        "window_block_indices": [i for i, window in enumerate(windows) if window is not None],
        "use_relative_position_embeddings": style.relative_positions,
    }
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}


def _positions(width: int, grid: Sequence[int], count: int) -> Entry:
    """The positions of the map's grid, out of those of another one behind that of a class token."""
    there = grid_of(count - 1, None, 1)
    if there is None:
        raise UserError(
            f"The tensor {_NAMES.positions!r} has {count} positions, which are not one and a square",
            "Check that the file and its config belong together",
        )

    def read(table: NDArray) -> list[NDArray]:
        patches = table.reshape(count, width)[1:].reshape(*there, width)
        return [patches if there == list(grid) else resize_bicubic(patches, tuple(grid), antialias=False)]

    def write(patches: NDArray) -> list[NDArray]:
        rows = patches.reshape(1, -1, width)
        return [np.concatenate([np.zeros_like(rows[:, :1]), rows], axis=1)]

    surplus = (count - grid[0] * grid[1]) * width
    return Entry(("encoder/pos_embedding",), (_NAMES.positions,), read, write, surplus=surplus)
