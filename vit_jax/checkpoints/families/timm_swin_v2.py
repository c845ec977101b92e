"""Swin v2 as timm names it (`timm.models.swin_transformer_v2`), and as its authors do."""

import re
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import TIMM_SWIN_V2
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import swin as parts
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.parts.swin_v2 import SwinV2Names, block_entries
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.swin import VARIANTS
from vit_jax.models.swin_v2 import build

LIBRARY = "timm"
MODELS = "Swin v2, its authors' too"
WRITES = ("swin_v2",)
COMPARED = "every map and logits of timm's own models at two resolutions; files of ours read by timm"

_SCALE = "attn.logit_scale"
# Tables that follow from the sizes, and the bias of keys, which is zero.
_IGNORED = ("*.attn_mask", "*.relative_position_index", "*.relative_coords_table", "*.k_bias")
_DIALECT = {"pad_order": "shift_then_pad", "clamp": "each"}
_WORDS = {"T": "tiny", "S": "small", "B": "base", "L": "large"}
# Windows, those of pretraining and pixels, as the names of timm's architectures have them: 'swinv2_base_NAME'.
_PRETRAINED = [12, 12, 12, 6]
_SETTINGS = {
    "window8_256": ([8] * 4, [0] * 4, 256),
    "window16_256": ([16] * 4, [0] * 4, 256),
    "window12_192": ([12] * 4, [0] * 4, 192),
    "window12to16_192to256": ([16] * 4, _PRETRAINED, 256),
    "window12to24_192to384": ([24] * 4, _PRETRAINED, 384),
}
_OF_SIZES = {"T": ("window8_256", "window16_256"), "S": ("window8_256", "window16_256"), "B": tuple(_SETTINGS),
             "L": ("window12_192", "window12to16_192to256", "window12to24_192to384")}  # fmt: skip


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    landmarks = ("patch_embed.proj.weight", f"layers.0.blocks.0.{_SCALE}", "layers.0.blocks.0.attn.cpb_mlp.0.weight")
    if any(name not in tensors for name in landmarks):
        return None
    timm_parts.architecture(sidecar, r"swinv2_(tiny|small|base|large)_window")
    remarks = timm_parts.check(sidecar, TIMM_SWIN_V2, "windows of 8 places, the exact GELU and pixels")
    own = "layers.0.downsample.reduction.weight" in tensors
    layout = {"merges_at_end": own, "head": "head" if "head.weight" in tensors else "head.fc"}
    kwargs = parts.size_kwargs(tensors, _names(**layout), lambda block: shape_of(tensors, block + _SCALE, 3)[0])
    stages = len(parts.swin_size_of(kwargs).depths)
    name = re.sub(r"^swinv2_[a-z]+_", "", sidecar.config.text("architecture") or "")
    windows, pretrained, pixels = _SETTINGS.get(name, _SETTINGS["window8_256"])
    said = sidecar.config.object("model_args")
    windows = _by_stage(said, "window_size", windows, stages)
    pretrained = _by_stage(said, "pretrained_window_sizes", pretrained, stages)
    if set(windows) != {8}:
        kwargs["window_size"] = windows[0] if len(set(windows)) == 1 else windows
    if any(pretrained):
        kwargs["pretrained_window"] = pretrained
    kwargs |= ({} if own else _DIALECT) | {"num_classes": shape_of(tensors, f"{layout['head']}.bias", 1, (0,))[0]}
    size = timm_parts.image_size(sidecar) or [pixels, pixels]
    crop = 0.9 if max(size) < 384 else 1.0
    preprocess = timm_parts.preprocess(sidecar, size, crop_pct=crop, stats=IMAGENET)
    labels = timm_parts.labels(sidecar, kwargs["num_classes"])
    return Published("swin_v2", kwargs, preprocess, layout, labels, remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds `merges_at_end` and the name of the `head`."""
    layout = {"merges_at_end": False, "head": "head.fc", **{k: v for k, v in layout.items() if k != "image_size"}}
    return NameMap(parts.entries(complete(build, kwargs), _names(**layout), block_entries), _IGNORED)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "swin_v2"):
        return None
    kwargs, side = metadata["model"]["kwargs"], [int(pixels) for pixels in metadata["preprocess"]["image_size"]]
    model = parts.model_of(kwargs, "pretrained_window", build=build)
    if model is None or not parts.computes_alike(model, side, **_DIALECT):
        return None
    encoder, size = model.encoder, parts.swin_size_of(kwargs)
    name = next((name for name, known in VARIANTS.items() if known == size), "T")
    windows = [style.window_size for style in encoder.styles]
    pretrained = [style.pretrained_window for style in encoder.styles]
    known = (key for key in _OF_SIZES[name] if _SETTINGS[key][:2] == (windows, pretrained))
    setting = next(known, _OF_SIZES[name][0])
    defaults = _SETTINGS[setting]
    model_args = {} if size == VARIANTS[name] else {
        "embed_dim": size.width, "depths": list(size.depths), "num_heads": list(size.num_heads),
    }  # fmt: skip
    own = {
        "window_size": (windows, defaults[0]),
        "pretrained_window_sizes": (pretrained, defaults[1]),
        "patch_size": (encoder.patch_size, 4),
        "mlp_ratio": (encoder.styles[0].mlp_dim / size.width, 4.0),
        "img_size": (side, [defaults[2]] * 2),
    }
    model_args |= {key: value for key, (value, default) in own.items() if value != default}
    further = {"first_conv": "patch_embed.proj", "classifier": "head.fc", "fixed_input_size": True}
    return timm_parts.config(f"swinv2_{_WORDS[name]}_{setting}", metadata, model_args, further)


def _by_stage(said: JsonObject, key: str, default: list[int], stages: int) -> list[int]:
    """Windows of each stage from a list of them or one number."""
    if said.get(key) is None:
        return default[:stages] + default[-1:] * (stages - len(default))
    if isinstance(said[key], list):
        return said.integers(key, stages)
    return [said.integer(key)] * stages


def _names(merges_at_end: bool, head: str) -> SwinV2Names:
    return SwinV2Names(
        patch="patch_embed.proj",
        patch_norm="patch_embed.norm",
        merging=lambda stage: f"layers.{stage - merges_at_end}.downsample.",
        block="layers.{}.blocks.{}.",
        norm1="norm1",
        qkv=("attn.qkv",),
        table="",
        out="attn.proj",
        norm2="norm2",
        fc1="mlp.fc1",
        fc2="mlp.fc2",
        norm="norm",
        head=head,
        scale=_SCALE,
        positions="attn.cpb_mlp.",
        query_bias="attn.q_bias",
        value_bias="attn.v_bias",
    )
