"""MAR as its authors name it (github.com/LTH14/mar, models/mar.py).

They distribute pickles; this reads what `safetensors.torch.save_file` makes of a state dict in one of them, or of both,
where `model.` and `model_ema.` stand before the names: then the averages are read. There is no config beside them: the
heads are those of the published sizes, and a token is one place of the latents. With their autoencoder in the same
file, `vae.` before its names, it draws images.
"""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.families import compvis_kl
from vit_jax.checkpoints.name_map import NameMap, Shapes, dense, norm, same, shape_of
from vit_jax.checkpoints.parts import diffusion_head
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.mar import build
from vit_jax.models.vit_variants import Variant

LIBRARY = "mar"
MODELS = "MAR"
WRITES = ("mar",)
COMPARED = "what the authors' own code computed: encoder, decoder, head, losses and samples"

_LANDMARK = "diffusion_pos_embed_learned"
_PREFIXES = ("model_ema.", "model.", "")
_HEAD, _VAE = "diffloss.net.", "vae."
_GIVEN = ["grid", "channels", "num_classes"]  # what the task says of the model


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    del sidecar
    found = [prefix for prefix in _PREFIXES if f"{prefix}{_LANDMARK}" in tensors]
    if not found:
        return None
    prefix = found[0]
    below = {name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}
    _, tokens, width = shape_of(below, _LANDMARK, 3)
    side = math.isqrt(tokens)
    kwargs = {
        "grid": [side, side],
        "channels": shape_of(below, "z_proj.weight", 2)[1],
        "num_classes": shape_of(below, "class_emb.weight", 2, (0, width))[0],
        "width": width,
        "depth": parts.depth_of(below, "encoder_blocks.{}."),
        "num_heads": parts.heads_of(width),
        "mlp_dim": shape_of(below, "encoder_blocks.0.mlp.fc1.weight", 2, (4 * width, width))[0],
        "buffer": shape_of(below, "encoder_pos_embed_learned", 3)[1] - tokens,
        **diffusion_head.arguments_of(below, _HEAD),
    }
    layout = {"prefix": prefix, "others": [p for p in found[1:] if p]}
    vae = compvis_kl.describe({k.removeprefix(_VAE): x for k, x in tensors.items() if k.startswith(_VAE)}, Sidecar())
    if vae is None:
        return Published("mar", kwargs, None, layout, task={"name": "features", "kwargs": {}})
    side = side * 2 ** (len(vae.kwargs["multipliers"]) - 1)
    beside = {"tokenizer": {"name": "kl_autoencoder", "kwargs": dict(vae.kwargs)}}
    return Published(
        "mar", kwargs, {**vae.preprocess, "image_size": [side, side]}, {**layout, "beside": beside},
        remarks=vae.remarks,
        task={"name": "mar", "kwargs": {"tokenizer": {"name": "kl_autoencoder", **vae.kwargs}}, "given": _GIVEN},
    )  # fmt: skip


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds the `prefix` of the names and those of `others`."""
    model = build(**complete(build, kwargs))
    prefix = layout.get("prefix", "")
    width, positions = model.width, model.buffer + model.tokens
    size = Variant(width, model.depth, model.style.mlp_dim, model.style.num_heads)
    entries = [
        *dense("input", f"{prefix}z_proj"),
        *norm("norm_input", f"{prefix}z_proj_ln"),
        same("null", f"{prefix}fake_latent", (width,), (1, width)),
        same("mask_token", f"{prefix}mask_token", (width,), (1, 1, width)),
        same(
            "head_positions", f"{prefix}diffusion_pos_embed_learned",
            (model.tokens, width), (1, model.tokens, width),
        ),
        *dense("decoder_input", f"{prefix}decoder_embed"),
        *diffusion_head.entries(
            "head/", f"{prefix}{_HEAD}", {"head_width": model.head.width, "head_depth": model.head.depth}
        ),
    ]  # fmt: skip
    if model.num_classes:
        entries.append(same("classes", f"{prefix}class_emb.weight"))
    for half in ("encoder", "decoder"):
        table = f"{prefix}{half}_pos_embed_learned"
        entries.append(same(f"{half}_positions", table, (positions, width), (1, positions, width)))
        entries += norm(f"{half}_norm", f"{prefix}{half}_norm")
        names = _block_names(f"{prefix}{half}_blocks.{{}}.")
        entries += parts.block_entries(parts.size_kwargs(size, (1, 1)), names, f"{half}_blocks")
    ignored, training = [f"{other}*" for other in layout.get("others", ())], ()
    if "tokenizer" in layout.get("beside", {}):
        beside = compvis_kl.name_map(layout["beside"]["tokenizer"]["kwargs"], {}).below("tokenizer/", _VAE)
        entries, ignored, training = [*entries, *beside.entries], [*ignored, *beside.ignored], beside.training
    return NameMap(entries, tuple(ignored), training)


def _block_names(block: str) -> parts.BlockNames:
    """Those of timm's block."""
    return parts.BlockNames(
        norm1=f"{block}norm1", qkv=(f"{block}attn.qkv",), out=f"{block}attn.proj",
        norm2=f"{block}norm2", fc1=f"{block}mlp.fc1", fc2=f"{block}mlp.fc2",
    )  # fmt: skip


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The authors have no such file."""
    return {} if is_of(metadata, "mar") else None
