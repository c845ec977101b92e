"""MLP-Mixer as Google's npz files name it, before and after its blocks were called MixerBlock."""

import re
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import numpy as np

from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, shape_of
from vit_jax.checkpoints.parts import google as google_parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.mixer import VARIANTS, Variant, build, parse_variant

LIBRARY = "google"
MODELS = "MLP-Mixer"
WRITES = ("mixer",)
COMPARED = "timm's Mixer, its weights under these names"

_STYLE = {"gelu": "tanh", "layer_norm_epsilon": 1e-6}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    prefix = google_parts.prefix_of(tensors, "MixerBlock_0/token_mixing/Dense_0/kernel")
    if prefix is not None:
        block, layout = f"{prefix}MixerBlock_{{}}/", {"prefix": prefix}
        tokens, channels = f"{block}token_mixing/Dense_0/kernel", f"{block}channel_mixing/Dense_0/kernel"
        stem = shape_of(tensors, f"{prefix}stem/kernel", 4)
    else:
        prefix = google_parts.prefix_of(tensors, "Mixer/encoder_norm/scale")
        if prefix is None:
            return None
        block, layout = f"{prefix}Mixer/encoderblock_{{}}/", _old_layout(tensors, prefix)
        tokens, channels = (f"{block}{layout[part]}/kernel1" for part in ("token_mixing", "channel_mixing"))
        stem = shape_of(tensors, f"{prefix}embedding/kernel", 4)
    (num_tokens, tokens_mlp_dim), (width, channels_mlp_dim) = (
        _matrix(tensors, name.format(0)) for name in (tokens, channels)
    )
    depth = next(i for i in range(len(tensors) + 1) if tokens.format(i) not in tensors)
    size = Variant(width, depth, tokens_mlp_dim, channels_mlp_dim)
    kwargs = mixer_size(size, stem[0]) | _STYLE | {"num_classes": shape_of(tensors, f"{prefix}head/bias", 1, (0,))[0]}
    known_size = google_parts.own_image_size(sidecar) or image_size(num_tokens, stem[0])
    return google_parts.published("mixer", kwargs, known_size, layout, sidecar)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    args = complete(build, kwargs)
    prefix = layout.get("prefix", "")
    old = "token_mixing" in layout
    dense, norm = google_parts.dense, google_parts.norm
    entries = dense("encoder/embedding", f"{prefix}embedding" if old else f"{prefix}stem")
    for i in range(args["depth"] or parse_variant(args["variant"])[0].depth):
        ours, theirs = f"encoder/block_{i:02d}", f"{prefix}MixerBlock_{i}"
        if old:
            theirs = f"{prefix}Mixer/encoderblock_{i}"
        norms = layout.get("norms", ("LayerNorm_0", "LayerNorm_1"))
        entries += norm(f"{ours}/norm1", f"{theirs}/{norms[0]}") + norm(f"{ours}/norm2", f"{theirs}/{norms[1]}")
        for part in ("token_mixing", "channel_mixing"):
            for number in range(2):
                fc = f"{ours}/{part}/fc{number + 1}"
                if not old:
                    entries += dense(fc, f"{theirs}/{part}/Dense_{number}")
                    continue
                for name in ("kernel", "bias"):
                    inner = f"{layout[part]}/{name}{number + 1}"
                    entries.append(_squeezed(f"{fc}/{name}", f"{theirs}/{inner}", layout["shapes"][inner]))
    entries += norm("encoder/norm", f"{prefix}Mixer/encoder_norm" if old else f"{prefix}pre_head_layer_norm")
    if args["num_classes"]:
        entries += dense("head", f"{prefix}head")
    return NameMap(entries, google_parts.ignored(prefix))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    return google_parts.config(metadata) if is_of(metadata, "mixer") else None


def mixer_size(size: Variant, patch: int) -> dict[str, Any]:
    """The arguments of `vit_jax.models.mixer.build` for this size and patch."""
    name = next((name for name, known in VARIANTS.items() if known == size), None)
    if name is not None:
        return {"variant": f"{name}/{patch}"}
    fields = ("width", "depth", "tokens_mlp_dim", "channels_mlp_dim")
    return {"variant": f"S/{patch}"} | {field: getattr(size, field) for field in fields}


def image_size(num_tokens: int, patch: int) -> list[int]:
    """Height and width of the square image that has so many patches.

    Raises:
        UserError: when no square has.
    """
    side = isqrt(num_tokens)
    if side * side != num_tokens:
        raise UserError(
            f"This Mixer mixes {num_tokens} tokens, which make no square, so that the file does not say its image size",
            "Give image_size=[height, width]",
        )
    return [side * patch] * 2


def _old_layout(tensors: Shapes, prefix: str) -> dict[str, Any]:
    """What the parts of a block are called, which differs by the counter that old Flax put behind them."""
    start = f"{prefix}Mixer/encoderblock_0/"
    inner = {name.removeprefix(start): shape for name, shape in tensors.items() if name.startswith(start)}

    def named(pattern: str, count: int) -> list[str]:
        found = {part for name in inner if re.fullmatch(pattern, part := name.split("/")[0])}
        if len(found) != count:
            raise UserError(f"The file has {len(found)} parts {start}{pattern} and not {count}", "It may be incomplete")
        return sorted(found, key=lambda part: int(part.rpartition("_")[2]))

    return {
        "prefix": prefix,
        "norms": named(r"LayerNorm_\d+", 2),
        "token_mixing": named(r"token_mixing_phase_\d+", 1)[0],
        "channel_mixing": named(r"channel_mixing_phase_\d+", 1)[0],
        "shapes": {name: list(shape) for name, shape in inner.items() if "_mixing_phase_" in name},
    }


def _matrix(tensors: Shapes, name: str) -> tuple[int, int]:
    """The shape of a matrix that may be kept with axes of length 1."""
    sides = tuple(side for side in tensors.get(name, ()) if side != 1)
    return shape_of({name: sides}, name, 2)


def _squeezed(ours: str, theirs: str, stored: Sequence[int]) -> Entry:
    """An array that the file keeps with axes of length 1."""

    def read(x: NDArray) -> list[NDArray]:
        return [np.squeeze(x)]

    return Entry((ours,), (theirs,), read, lambda x: [x.reshape(stored)])
