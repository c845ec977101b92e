"""Tiny autoencoders as diffusers names them (`AutoencoderTiny`)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import DIFFUSERS_TINY
from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import diffusers
from vit_jax.checkpoints.parts import tiny_autoencoder as parts
from vit_jax.checkpoints.parts.autoencoder import TASK, pixels
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.tiny_autoencoder import build

LIBRARY = "diffusers"
MODELS = "AutoencoderTiny"
WRITES = ("tiny_autoencoder",)
COMPARED = "latents and images of diffusers' own models, of 4, 16 and 32 channels; files of ours read by diffusers"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    kwargs = parts.tiny_kwargs(tensors, parts.DIFFUSERS)
    if kwargs is None:
        return None
    config = sidecar.config
    diffusers.check(config, DIFFUSERS_TINY, "AutoencoderTiny")
    model = build(**kwargs)
    config.must_agree("latent_channels", model.latent_width)
    return Published("tiny_autoencoder", kwargs, pixels(), task=TASK)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    return NameMap(parts.tiny_entries(build(**kwargs), parts.DIFFUSERS))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. diffusers has no branch that looks at the whole map."""
    if not is_of(metadata, "tiny_autoencoder"):
        return None
    model = build(**metadata["model"]["kwargs"])
    if model.pooled:
        return None
    widths = [model.width] * len(model.encoder_blocks)
    config = {
        "_class_name": "AutoencoderTiny",
        "latent_channels": model.latent_width,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "num_encoder_blocks": list(model.encoder_blocks),
        "num_decoder_blocks": list(model.decoder_blocks),
        "act_fn": "relu",
        "in_channels": 3,
        "out_channels": 3,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "upsampling_scaling_factor": 2,
        "scaling_factor": 1.0,
    }
    return {"config.json": config}
