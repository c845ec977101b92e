"""CLIP with a ViT as OpenAI's code and open_clip name it."""

from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, NDArray, Shapes, conv, norm, same, shape_of
from vit_jax.checkpoints.parts import clip as clip_parts
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import open_clip as parts
from vit_jax.checkpoints.parts import towers
from vit_jax.checkpoints.parts import vit as vit_parts
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.clip import build
from vit_jax.models.vit_variants import Variant

LIBRARY = "open_clip"
MODELS = "CLIP with a ViT, OpenAI's names too"
WRITES = ("clip",)
COMPARED = "embeddings and logits of open_clip's CLIP; files of ours read by open_clip"

_BLOCKS = "visual.transformer.resblocks.{}."


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`."""
    if not parts.is_whole(tensors, "visual.class_embedding") or "visual.proj" not in tensors:
        return None
    config, of_image, of_text = parts.configs(sidecar)
    kernel = shape_of(tensors, "visual.conv1.weight", 4)
    mlp_dim, width = shape_of(tensors, f"{_BLOCKS.format(0)}mlp.c_fc.weight", 2)
    depth, embed_dim = vit_parts.depth_of(tensors, _BLOCKS), shape_of(tensors, "visual.proj", 2)[1]
    for key, value in {"width": width, "layers": depth, "patch_size": kernel[2]}.items():
        of_image.must_agree(key, value)
    config.must_agree("embed_dim", embed_dim)
    table = "visual.positional_embedding"
    grid = hf_parts.grid(of_image, shape_of(tensors, table, 2)[0] - 1, kernel[2], table)
    image_size = [side * kernel[2] for side in grid]
    heads = max(width // of_image.integer("head_width", 64, at_least=1), 1)
    image = clip_parts.vit_tower(Variant(width, depth, mlp_dim, heads), kernel[2:], image_size[0])
    text, vocab_size = parts.text(tensors, of_text)
    style = parts.style(config)
    kwargs = clip_parts.whole(image, text, embed_dim, vocab_size, style, style)
    field, said = towers.clip_field(sidecar, vocab_size, text["max_length"])
    preprocess, assumed = parts.pixels(sidecar, image_size)
    remarks = (() if config else (parts.ASSUMED,)) + assumed + said
    fields = {"image": {"name": "image"}, "text": field}
    task = {"name": "clip", "kwargs": {}, "given": ["end_id"]}
    kwargs["end_id"] = vocab_size - 1  # the largest id of each row
    kwargs["posemb_resize"] = "bicubic_antialias"
    return Published("clip", kwargs, preprocess, {"grid": grid}, (), remarks, fields, task)


def settle(published: Published, tensor: Callable[[str], NDArray]) -> Published:
    """See `Family`."""
    return clip_parts.settled(published, tensor)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `grid`, the rows and columns of positions."""
    model = build(**kwargs)
    arguments = towers.vit_arguments(model.image_tower)
    entries = [
        conv("encoder/embedding/kernel", "visual.conv1.weight"),
        towers.hf_class_token("visual.class_embedding"),
        vit_parts.position_entry(arguments, "visual.positional_embedding", layout.get("grid"), leading=False),
        *norm("encoder/norm_embedding", "visual.ln_pre"),
        *parts.block_entries(arguments, "visual.transformer.", "encoder"),
        *norm("encoder/norm", "visual.ln_post"),
        same("image_projection/kernel", "visual.proj"),
        *parts.entries(model),
    ]
    return NameMap(entries, parts.IGNORED)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`."""
    if not is_of(metadata, "clip"):
        return None
    model = build(**metadata["model"]["kwargs"])
    plain = model.project_image == model.project_text == "plain"
    if not towers.is_clip_vit(model.image_tower) or not towers.is_clip_text(model.text_tower) or not plain:
        return None
    encoder = model.encoder
    vision = {
        "layers": encoder.depth,
        "width": encoder.width,
        "head_width": encoder.width // encoder.style.num_heads,
        "patch_size": encoder.patch_size[0],
        **parts.ratio(encoder.width, encoder.style.mlp_dim),
    }
    return parts.config_files(model, vision, metadata)
