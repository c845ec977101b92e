"""Hybrids as timm names them: the ViT's names, and a ResNetV2 under `patch_embed.backbone`."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.families import timm_vit
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.hybrid import hybrid_size, reduction
from vit_jax.checkpoints.parts.resnet import differs, stage_sizes, timm_names
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.hybrid import build, parse_variant, vit_arguments

LIBRARY = "timm"
MODELS = "R+ViT hybrids"
WRITES = ("hybrid",)
COMPARED = "tokens and logits of timm's own models at two resolutions; files of ours read by timm"

_BACKBONE = "patch_embed.backbone."
# How timm's hybrids compute; their epsilons are not those of the weights that they were made from.
_STYLE = {
    "padding": "same",
    "stem_pool_padding": "lowest",
    "weight_epsilon": 1e-8,
    "weight_epsilon_in": "variance",
    "num_groups": 32,
    "group_norm_epsilon": 1e-5,
}
_ARCHITECTURES = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    # Other backbones (resnet26d, MobileCLIP's convolutions) have batch norm and other names.
    roots = [stem for stem in ("stem.", "") if f"{_BACKBONE}{stem}norm.weight" in tensors]
    if not roots or any(name.endswith(".running_mean") for name in tensors):
        return None
    root = shape_of(tensors, f"{_BACKBONE}{roots[0]}conv.weight", 4)
    stem = {name for name in tensors if name.startswith(_BACKBONE)}
    sizes = stage_sizes(stem, r"patch_embed\.backbone\.stages\.(\d+)\.blocks\.(\d+)\.conv1\.weight")
    scale = reduction(sizes)
    rest = {name: shape for name, shape in tensors.items() if name not in stem}
    vit = timm_vit.describe(rest, Sidecar(_on_the_map(sidecar, scale)))
    kwargs = vit and hybrid_size(vit.kwargs, sizes, root[0])
    if not kwargs:
        return None
    size = [side * scale for side in vit.preprocess["image_size"]]
    return Published(
        model="hybrid",
        kwargs=kwargs | _STYLE,
        preprocess=timm_parts.preprocess(sidecar, size, crop_pct=0.9),
        layout=vit.layout,
        labels=vit.labels,
        remarks=vit.remarks,
    )


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout is timm_vit's."""
    vit = timm_vit.name_map(vit_arguments(kwargs), layout)
    return NameMap([*stem_entries(kwargs), *vit.entries], vit.ignored)


def stem_entries(kwargs: Mapping[str, Any]) -> list[Entry]:
    """The ResNet's entries alone."""
    sizes = kwargs.get("stage_sizes")
    sizes = parse_variant(kwargs["variant"])[0].stage_sizes if sizes is None else sizes
    return timm_names(_BACKBONE, "stem." if sizes else "").entries("encoder/stem", sizes, preactivation=False)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "hybrid"):
        return None
    args = complete(build, metadata["model"]["kwargs"])
    sizes = args["stage_sizes"]
    sizes = parse_variant(args["variant"])[0].stage_sizes if sizes is None else tuple(sizes)
    if differs(args, _STYLE) or args["stem_width"] != 64 or sizes not in _ARCHITECTURES:
        return None
    if args.get("distillation_token") or args.get("mlp", "gelu") != "gelu":
        return None
    vit = {**metadata, "model": {"name": "vit", "kwargs": vit_arguments(metadata["model"]["kwargs"])}}
    files = timm_vit.sidecar(vit)
    if files is None:
        return None
    config = files["config.json"]
    first_conv = "patch_embed.backbone.stem.conv" if sizes else "patch_embed.backbone.conv"
    settings = {**config["pretrained_cfg"], "first_conv": first_conv}
    return {"config.json": {**config, "architecture": _ARCHITECTURES[sizes], "pretrained_cfg": settings}}


def _on_the_map(sidecar: Sidecar, scale: int) -> JsonObject:
    """timm's config as if the stem's map were the image, which is what the ViT's family can understand."""
    arguments, settings = sidecar.config.object("model_args"), timm_parts.settings(sidecar)
    if size := arguments.sides("img_size"):
        arguments |= {"img_size": [side // scale for side in size]}
    if size := timm_parts.image_size(sidecar):
        settings |= {"input_size": [3, *(side // scale for side in size)]}
    return sidecar.config | {"model_args": arguments, "pretrained_cfg": settings}
