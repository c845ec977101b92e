"""Chameleon's tokenizer of images as transformers names it (`ChameleonVQVAE`): a VQGAN without its decoder."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_CHAMELEON_VQVAE
from vit_jax.checkpoints.name_map import NameMap, Shapes, same, shape_of
from vit_jax.checkpoints.parts import autoencoder as parts
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.vqgan import build

LIBRARY = "transformers"
MODELS = "Chameleon's image tokenizer"
WRITES = ("vqgan",)
COMPARED = "latents and indices of ChameleonVQVAE; files of ours read by transformers"

_CODES = "quantize.embedding.weight"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if _CODES not in tensors or not parts.is_layout(tensors, parts.COMPVIS) or "decoder.conv_in.weight" in tensors:
        return None
    config = sidecar.config
    if config:
        hf_parts.check(config, HF_CHAMELEON_VQVAE, "chameleon_vqgan")
    codes, width = shape_of(tensors, _CODES, 2)
    latents = shape_of(tensors, "encoder.conv_out.weight", 4)[0]
    for key, found in {"num_embeddings": codes, "embed_dim": width, "latent_channels": latents}.items():
        config.must_agree(key, found)
    kwargs = {
        "num_codes": codes, "latent_channels": latents, "code_width": width, "quantizer": "vector", "decoder": False,
        **parts.layout_kwargs(tensors, parts.COMPVIS),
    }  # fmt: skip
    return Published("vqgan", kwargs, parts.pixels(config.integer("resolution", 512, at_least=1)), task=parts.TASK)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    model = build(**complete(build, kwargs))
    entries = parts.layout_entries(model.layout, parts.COMPVIS, decoder=False) + parts.moment_entries(True)
    return NameMap([*entries, same("quantizer/codebook/codes", _CODES)])


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. It has squares of pixels only."""
    if not is_of(metadata, "vqgan"):
        return None
    model, (height, width) = build(**metadata["model"]["kwargs"]), metadata["preprocess"]["image_size"]
    layout = model.layout
    vector = model.quantizer_kind == "vector" and parts.has_plain_codes(model)
    if model.has_decoder or not vector or layout.style.groups != 32:
        return None
    if height != width or not layout.middle_attends:
        return None
    config = {
        "architectures": ["ChameleonVQVAE"],
        "model_type": "chameleon_vqgan",
        "dtype": "float32",
        "resolution": int(height),
        "in_channels": 3,
        "base_channels": layout.channels,
        "channel_multiplier": list(layout.multipliers),
        "num_res_blocks": layout.num_blocks,
        "attn_resolutions": [int(height) // 2**level for level in layout.attention_levels],
        "attn_type": "vanilla",
        "latent_channels": model.latent_channels,
        "embed_dim": model.latent_width,
        "num_embeddings": model.vocab_size,
        "double_latent": False,
    }
    return {"config.json": config}
