"""CLIP with a ResNet as OpenAI's code and open_clip name it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, linear, same, shape_of
from vit_jax.checkpoints.parts import clip as clip_parts
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import open_clip as parts
from vit_jax.checkpoints.parts import towers
from vit_jax.checkpoints.parts.resnet import conv_norm, stage_sizes
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.parts.vit import projection
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.clip import build
from vit_jax.models.clip_resnet import VARIANTS, ClipResNet
from vit_jax.nn.residual import unit_name

LIBRARY = "open_clip"
MODELS = "CLIP with a ResNet, OpenAI's names too"
WRITES = ("clip",)
COMPARED = "embeddings and logits of open_clip's CLIP with random statistics; files of ours read by open_clip"

_UNIT = r"visual\.layer(\d+)\.(\d+)\.conv1\.weight"
_POOL = "visual.attnpool."


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`."""
    if not parts.is_whole(tensors, f"{_POOL}c_proj.weight"):
        return None
    config, of_image, of_text = parts.configs(sidecar)
    depths, width = stage_sizes(tensors, _UNIT), shape_of(tensors, "visual.conv3.weight", 4)[0]
    embed_dim = shape_of(tensors, f"{_POOL}c_proj.weight", 2)[0]
    of_image.must_agree("width", width)
    config.must_agree("embed_dim", embed_dim)
    said = of_image.integers("layers", 4) if "layers" in of_image else list(depths)
    if list(said) != list(depths):
        raise of_image.error("layers", f"is {said}, but the tensors say {list(depths)}")
    places, table = shape_of(tensors, f"{_POOL}positional_embedding", 2)[0] - 1, f"{_POOL}positional_embedding"
    grid = hf_parts.grid(of_image, places, 32, table)
    image_size = [side * 32 for side in grid]
    known = (n for n, v in VARIANTS.items() if (v.depths, v.width, v.features) == (depths, width, embed_dim))
    variant = next(known, None)
    image = {"variant": variant} if variant else {"variant": "RN50", "depths": list(depths), "width": width}
    heads = max(width * 32 // of_image.integer("head_width", 64, at_least=1), 1)
    if heads != width // 2:
        image["num_heads"] = heads
    text, vocab_size = parts.text(tensors, of_text)
    style = parts.style(config)
    kwargs = clip_parts.whole(image, text, embed_dim, vocab_size, clip_parts.STYLE, style)
    field, said = towers.clip_field(sidecar, vocab_size, text["max_length"])
    preprocess, assumed = parts.pixels(sidecar, image_size)
    remarks = (() if config else (parts.ASSUMED,)) + assumed + said
    fields = {"image": {"name": "image"}, "text": field}
    task = {"name": "clip", "kwargs": {}, "given": ["end_id"]}
    kwargs["end_id"] = vocab_size - 1  # the largest id of each row
    return Published("clip", kwargs, preprocess, {"grid": grid}, (), remarks, fields, task)


def settle(published: Published, tensor: Callable[[str], NDArray]) -> Published:
    """See `Family`."""
    return clip_parts.settled(published, tensor)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `grid`, the rows and columns of positions."""
    model = build(**kwargs)
    tower: ClipResNet = model.image_tower
    encoder, entries = tower.encoder, []
    for i in (1, 2, 3):
        entries += conv_norm(f"encoder/conv{i}", f"encoder/norm{i}", f"visual.conv{i}", f"visual.bn{i}")
    for stage, size in enumerate(encoder.stage_sizes):
        for unit in range(size):
            ours, theirs = f"encoder/{unit_name(stage, unit)}", f"visual.layer{stage + 1}.{unit}"
            for i in (1, 2, 3):
                entries += conv_norm(f"{ours}/conv{i}", f"{ours}/norm{i}", f"{theirs}.conv{i}", f"{theirs}.bn{i}")
            if unit == 0:  # every stage widens the map
                names = f"{theirs}.downsample.0", f"{theirs}.downsample.1"
                entries += conv_norm(f"{ours}/proj_conv", f"{ours}/proj_norm", *names)
    return NameMap([*entries, *_pool(tower, layout.get("grid")), *parts.entries(model)], parts.IGNORED)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`."""
    if not is_of(metadata, "clip"):
        return None
    model = build(**metadata["model"]["kwargs"])
    tower = model.image_tower
    if not isinstance(tower, ClipResNet) or not towers.is_clip_text(model.text_tower) or model.project_text != "plain":
        return None
    if model.project_image != "none" or len(tower.encoder.stage_sizes) != 4:
        return None
    width = tower.encoder.width
    vision = {"layers": list(tower.encoder.stage_sizes), "width": width, "head_width": width * 32 // tower.num_heads}
    return parts.config_files(model, vision, metadata)


def _pool(tower: ClipResNet, grid: list[int] | None) -> list[Entry]:
    """The attention pooling, whose table has the mean's row first."""
    channels, heads = tower.encoder.channels, tower.num_heads

    def read(table: NDArray) -> list[NDArray]:
        return [table[1:].reshape(*(grid or (-1,)), channels), table[:1].reshape(1, 1, channels)]

    def write(places: NDArray, mean: NDArray) -> list[NDArray]:
        return [np.concatenate([mean.reshape(1, channels), places.reshape(-1, channels)])]

    names = ("pool/pos_embedding", "pool/mean_pos_embedding")
    entries = [Entry(names, (f"{_POOL}positional_embedding",), read, write)]
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        entries += projection(f"pool/{ours}", f"{_POOL}{theirs}.weight", f"{_POOL}{theirs}.bias", channels, heads)
    kernel = (heads, channels // heads, tower.features)
    entries.append(linear("pool/out/kernel", f"{_POOL}c_proj.weight", kernel))
    return [*entries, same("pool/out/bias", f"{_POOL}c_proj.bias")]
