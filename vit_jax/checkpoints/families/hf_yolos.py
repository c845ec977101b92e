"""YOLOS as transformers names it (`YolosForObjectDetection`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.checkpoints.config_keys import HF_YOLOS
from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, conv, dense, norm, same, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, in_pixels, in_unit, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError

LIBRARY = "transformers"
MODELS = "YOLOS"
WRITES = ("yolos",)
COMPARED = (
    "boxes and logits of transformers' own models, with and without positions in the middle; our files read by it"
)

_EMBEDDINGS, _LAYER = "vit.embeddings.", "vit." + hf_parts.VIT_LAYER
# What the positions in the middle are called today, and in files of transformers before 5.
_MID = ("vit.encoder.interpolation.mid_position_embeddings", "vit.encoder.mid_position_embeddings")
_HEADS = {"classes": "class_labels_classifier", "boxes": "bbox_predictor"}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if f"{_EMBEDDINGS}detection_tokens" not in tensors:
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_YOLOS, "yolos")
    table = shape_of(tensors, f"{_EMBEDDINGS}position_embeddings", 3)
    count = shape_of(tensors, f"{_EMBEDDINGS}detection_tokens", 3)[1]
    width, _, *patch = shape_of(tensors, f"{_EMBEDDINGS}patch_embeddings.projection.weight", 4)
    fc1 = shape_of(tensors, _LAYER.format(0) + "intermediate.dense.weight", 2)[0]
    defaults = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
    trunk = hf_parts.encoder_kwargs(config, patch, width, parts.depth_of(tensors, _LAYER), fc1, defaults)
    if not config.boolean("qkv_bias", True):
        raise config.error("qkv_bias", "is false", "Only a model with these biases can be read")
    config.must_agree("num_detection_tokens", count)
    mid = next((name for name in _MID if name in tensors), None)
    grid = _grid(sidecar, table[1] - 1 - count, patch)
    num_classes = shape_of(tensors, "class_labels_classifier.layers.2.bias", 1)[0] - 1
    kwargs = {
        "trunk": {"name": "vit", **trunk, "posemb_resize": "bicubic"},
        "num_classes": num_classes,
        **({} if count == 100 else {"num_detections": count}),
        **({} if mid is None else {"mid_positions": True}),
    }
    size = [side * of for side, of in zip(grid, patch, strict=True)]
    pixels = {key: sidecar.preprocessor.numbers(f"image_{key}", 3) for key in ("mean", "std")}
    preprocess = {
        "image_size": size,
        "resize": "pad",
        "anchor": "corner",
        "interpolation": "bilinear",
        **{key: IMAGENET[key] if values is None else in_pixels(values) for key, values in pixels.items()},
    }
    remarks += (
        f"its image processor leaves images their shape; here they are fitted into {size[0]}x{size[1]} pixels, as its "
        "positions are",
    )
    labels = hf_parts.labels(sidecar, num_classes)
    fields = {"image": {"name": "image"}, "boxes": {"name": "boxes", "count": count, "classes": num_classes}}
    task = {"name": "detect", "kwargs": {}, "given": ["num_classes"]}
    layout = {"grid": grid, **({} if mid is None else {"mid": mid})}
    return Published("yolos", kwargs, preprocess, layout, labels, remarks, fields, task)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds the `grid` of positions and the name of those in the
    `mid`dle."""
    trunk = {"num_classes": 0, **kwargs["trunk"]}
    trunk.pop("name", None)
    grid = layout.get("grid") or [side // parts.size_of(trunk)[1] for side in layout["image_size"]]
    found = [
        conv("encoder/embedding/kernel", f"{_EMBEDDINGS}patch_embeddings.projection.weight"),
        same("encoder/embedding/bias", f"{_EMBEDDINGS}patch_embeddings.projection.bias"),
        same("encoder/cls", f"{_EMBEDDINGS}cls_token"),
        same("detection", f"{_EMBEDDINGS}detection_tokens"),
        _positions(f"{_EMBEDDINGS}position_embeddings", grid),
        *parts.block_entries(trunk, hf_parts.block_names(_LAYER)),
        *norm("encoder/norm", "vit.layernorm"),
    ]
    if kwargs.get("mid_positions"):
        found.append(_mid_positions(layout.get("mid", _MID[0]), grid))
    for ours, theirs in _HEADS.items():
        for i in range(3):
            found += dense(f"{ours}/fc{i + 1}", f"{theirs}.layers.{i}")
    return NameMap(found)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "yolos"):
        return None
    kwargs, pixels = metadata["model"]["kwargs"], metadata["preprocess"]
    trunk = {"num_classes": 0, **{key: value for key, value in kwargs["trunk"].items() if key != "name"}}
    if not parts.is_plain(trunk) or parts.tokens_of(trunk) != (True, True):
        return None
    config = {
        "architectures": ["YolosForObjectDetection"],
        "model_type": "yolos",
        **hf_parts.size_config(trunk, pixels["image_size"]),
        "image_size": [int(side) for side in pixels["image_size"]],
        "intermediate_size": parts.size_of(trunk)[0].mlp_dim,
        "qkv_bias": True,
        "num_detection_tokens": kwargs.get("num_detections", 100),
        "use_mid_position_embeddings": bool(kwargs.get("mid_positions")),
        **hf_parts.label_config(metadata),
    }
    processor = {
        "image_processor_type": "YolosImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": min(config["image_size"]), "longest_edge": max(config["image_size"])},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": in_unit(pixels, "mean"),
        "image_std": in_unit(pixels, "std"),
    }
    return {"config.json": config, "preprocessor_config.json": processor}


def _grid(sidecar: Sidecar, positions: int, patch: list[int]) -> list[int]:
    """Rows and columns of the positions: those of the image size in config.json, or else a square."""
    said = sidecar.config.sides("image_size") or ([512, 864] if sidecar.config else None)
    grid = [round(positions**0.5)] * 2 if said is None else [side // of for side, of in zip(said, patch, strict=True)]
    if grid[0] * grid[1] != positions:
        raise UserError(
            f"The tensor '{_EMBEDDINGS}position_embeddings' has {positions} positions of patches, which are not the "
            f"{grid[0]}x{grid[1]} of its image size",
            "Give the image_size that it was made for in config.json",
        )
    return grid


def _positions(theirs: str, grid: list[int]) -> Entry:
    """One table: class token, patches, detection tokens."""

    def read(x: NDArray) -> list[NDArray]:
        first, last = 1, 1 + grid[0] * grid[1]
        return [x[:, :first], x[0, first:last].reshape(*grid, -1), x[:, last:]]

    def write(cls: NDArray, patches: NDArray, detections: NDArray) -> list[NDArray]:
        return [np.concatenate([cls, patches.reshape(1, -1, patches.shape[-1]), detections], axis=1)]

    names = ("encoder/cls_pos_embedding", "encoder/pos_embedding", "detection_pos_embedding")
    return Entry(names, (theirs,), read, write)


def _mid_positions(theirs: str, grid: list[int]) -> Entry:
    """The same for every block but the last, [depth - 1, 1, T, D]."""

    def read(x: NDArray) -> list[NDArray]:
        last = 1 + grid[0] * grid[1]
        tokens = np.concatenate([x[:, 0, :1], x[:, 0, last:]], axis=1)
        return [x[:, 0, 1:last].reshape(len(x), *grid, -1), tokens]

    def write(patches: NDArray, tokens: NDArray) -> list[NDArray]:
        flat = patches.reshape(len(patches), -1, patches.shape[-1])
        return [np.concatenate([tokens[:, :1], flat, tokens[:, 1:]], axis=1)[:, None]]

    return Entry(("mid_pos_embedding", "mid_token_pos_embedding"), (theirs,), read, write)
