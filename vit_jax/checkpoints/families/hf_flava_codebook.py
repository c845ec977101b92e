"""The encoder of DALL-E's discrete VAE as transformers names it (`FlavaImageCodebook`)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_FLAVA_CODEBOOK
from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import autoencoder as parts
from vit_jax.checkpoints.parts import dvae
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.dvae import build

LIBRARY = "transformers"
MODELS = "FLAVA's image codebook, the encoder of DALL-E's discrete VAE"
WRITES = ("dvae",)
COMPARED = "logits and indices of FlavaImageCodebook; files of ours read by transformers"

_BLOCK, _CONV, _NAMES = "group_{}.group.block_{}.", "res_path.path.conv_{}", {"kernel": "weight", "bias": "bias"}
_SIDE = 112  # pixels, as FLAVA's processor gives it


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    kwargs = dvae.dvae_kwargs(tensors, "blocks.", _BLOCK, "weight")
    if kwargs is None:
        return None
    config = sidecar.config
    if config:
        hf_parts.check(config, HF_FLAVA_CODEBOOK, "flava_image_codebook")
    for key, found in {
        "num_blocks_per_group": "num_blocks",
        "hidden_size": "hidden",
        "vocab_size": "num_codes",
    }.items():
        config.must_agree(key, kwargs[found])
    return Published("dvae", kwargs | {"decoder": False}, parts.pixels(_SIDE), task=parts.TASK)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    return NameMap(dvae.encoder_entries(build(**kwargs), "blocks.", _BLOCK, _CONV, _NAMES))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. It is an encoder alone."""
    if not is_of(metadata, "dvae"):
        return None
    model = build(**metadata["model"]["kwargs"])
    if model.has_decoder:
        return None
    config = {
        "architectures": ["FlavaImageCodebook"],
        "model_type": "flava_image_codebook",
        "dtype": "float32",
        "num_groups": 4,
        "input_channels": 3,
        "num_blocks_per_group": model.num_blocks,
        "hidden_size": model.hidden,
        "vocab_size": model.vocab_size,
    }
    return {"config.json": config}
