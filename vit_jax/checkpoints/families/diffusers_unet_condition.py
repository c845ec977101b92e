"""U-Nets of latent diffusion that read a text, as diffusers names them (`UNet2DConditionModel`): Stable Diffusion's."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import DIFFUSERS_UNET_CONDITION
from vit_jax.checkpoints.name_map import NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import conditional_unet as parts
from vit_jax.checkpoints.parts import diffusers, unet
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.conditional_unet import build

LIBRARY = "diffusers"
MODELS = "UNet2DConditionModel of Stable Diffusion 1 and 2, with a mask or a depth too"
WRITES = ("conditional_unet",)
COMPARED = "predictions of diffusers' own models; files of ours read by diffusers"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if "conv_out.weight" not in tensors or not parts.is_conditional(tensors):
        return None
    config = sidecar.config
    diffusers.check(config, DIFFUSERS_UNET_CONDITION, "UNet2DConditionModel")
    kwargs, remarks = parts.diffusers_kwargs(tensors, config)
    kwargs |= {
        "outputs": shape_of(tensors, "conv_out.weight", 4)[0],
        "dropout_rate": config.number("dropout", 0.0, at_least=0),
    }
    # Of latents, whose autoencoder is elsewhere.
    return Published("conditional_unet", kwargs, None, {}, (), remarks, task={"name": "features", "kwargs": {}})


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    model = build(**complete(build, kwargs))
    return NameMap(unet.levels_entries(model, unet.DIFFUSERS, parts.attention_of(model)))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "conditional_unet"):
        return None
    kwargs = complete(build, metadata["model"]["kwargs"])
    config = parts.diffusers_config(kwargs)
    if config is None:
        return None
    up = [name.replace("Down", "Up") for name in reversed(config["down_block_types"])]
    said = {"out_channels": kwargs["outputs"], "up_block_types": up, "dropout": kwargs["dropout_rate"]}
    return {"config.json": {"_class_name": "UNet2DConditionModel", **config, **said}}
