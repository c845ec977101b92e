"""Swin as timm names it (`timm.models.swin_transformer`), and as its authors do."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import TIMM_SWIN
from vit_jax.checkpoints.name_map import NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import swin as parts
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.swin import VARIANTS, build

LIBRARY = "timm"
MODELS = "Swin, its authors' too"
WRITES = ("swin",)
COMPARED = "every map and logits of timm's own models at two resolutions; files of ours read by timm"

_TABLE = "attn.relative_position_bias_table"
_IGNORED = ("*.attn_mask", "*.relative_position_index")  # tables that follow from the sizes
# How timm divides maps; its authors' code, which this is from, refuses what windows do not divide.
_DIALECT = {"pad_order": "shift_then_pad", "clamp": "each"}
_WORDS = {"T": "tiny", "S": "small", "B": "base", "L": "large"}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if "patch_embed.proj.weight" not in tensors or f"layers.0.blocks.0.{_TABLE}" not in tensors:
        return None
    timm_parts.architecture(sidecar, r"swin_(tiny|small|base|large|s3_[a-z]+)_")
    remarks = timm_parts.check(sidecar, TIMM_SWIN, "the exact GELU and pixels")
    # The authors merge at the end of a stage, timm at the start of the next one.
    own = "layers.0.downsample.reduction.weight" in tensors
    layout = {"merges_at_end": own, "head": "head" if "head.weight" in tensors else "head.fc"}
    names = _names(**layout)
    kwargs = parts.size_kwargs(tensors, names, lambda block: shape_of(tensors, block + _TABLE, 2)[1])
    said = sidecar.config.object("model_args")
    window = said.integers("window_size", at_least=1) if isinstance(said.get("window_size"), list) else None
    window = window or said.integer("window_size", at_least=1)
    dialect = {} if own else _DIALECT
    clamp = dialect.get("clamp", "both")
    windows, size = parts.window_kwargs(tensors, names, kwargs, window, timm_parts.image_size(sidecar), clamp)
    kwargs |= windows | dialect | {"num_classes": shape_of(tensors, f"{layout['head']}.bias", 1, (0,))[0]}
    crop = 0.9 if max(size) < 384 else 1.0
    pixels = timm_parts.preprocess(sidecar, size, crop_pct=crop, stats=IMAGENET)
    return Published("swin", kwargs, pixels, layout, timm_parts.labels(sidecar, kwargs["num_classes"]), remarks)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds `merges_at_end` and the name of the `head`."""
    layout = {"merges_at_end": False, "head": "head.fc", **{k: v for k, v in layout.items() if k != "image_size"}}
    return NameMap(parts.entries(complete(build, kwargs), _names(**layout), parts.block_entries), _IGNORED)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "swin"):
        return None
    kwargs, side = metadata["model"]["kwargs"], [int(pixels) for pixels in metadata["preprocess"]["image_size"]]
    model = parts.model_of(kwargs)
    if model is None or not parts.computes_alike(model, side, **_DIALECT):
        return None
    encoder, size = model.encoder, parts.swin_size_of(kwargs)
    name = next((name for name, known in VARIANTS.items() if known == size), "T")
    windows = [style.window_size for style in encoder.styles]
    large = windows == [12] * 4 and name in ("B", "L")
    window, pixels = (12, 384) if large else (7, 224)
    model_args = {} if size == VARIANTS[name] else {
        "embed_dim": size.width, "depths": list(size.depths), "num_heads": list(size.num_heads),
    }  # fmt: skip
    if set(windows) != {window}:
        model_args["window_size"] = windows[0] if len(set(windows)) == 1 else windows
    ratio = encoder.styles[0].mlp_dim / size.width
    own = {"patch_size": (encoder.patch_size, 4), "mlp_ratio": (ratio, 4.0), "img_size": (side, [pixels] * 2)}
    model_args |= {key: value for key, (value, default) in own.items() if value != default}
    further = {"first_conv": "patch_embed.proj", "classifier": "head.fc", "fixed_input_size": True}
    return timm_parts.config(
        f"swin_{_WORDS[name]}_patch4_window{window}_{pixels}", metadata, model_args, further
    )  # fmt: skip


def _names(merges_at_end: bool, head: str) -> parts.SwinNames:
    return parts.SwinNames(
        patch="patch_embed.proj",
        patch_norm="patch_embed.norm",
        merging=lambda stage: f"layers.{stage - merges_at_end}.downsample.",
        block="layers.{}.blocks.{}.",
        norm1="norm1",
        qkv=("attn.qkv",),
        table=_TABLE,
        out="attn.proj",
        norm2="norm2",
        fc1="mlp.fc1",
        fc2="mlp.fc2",
        norm="norm",
        head=head,
    )
