"""What the families of diffusers have in common: config.json, and the kinds of levels in it."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import Keys
from vit_jax.checkpoints.json_file import JsonObject, shown
from vit_jax.checkpoints.name_map import Shapes
from vit_jax.checkpoints.parts import autoencoder as parts
from vit_jax.nn.autoencoder import Layout


def check(config: JsonObject, keys: Keys, kind: str) -> None:
    """Refuses a config.json of another class, or with a key that is neither read nor known to be harmless."""
    said = config.text("_class_name")
    if said is not None and said != kind:
        raise config.error("_class_name", f"is {shown(said)}, a model that vit_jax does not have", "Load another model")
    keys.check(config)


def layout_kwargs(tensors: Shapes, names: parts.Names, config: JsonObject) -> dict[str, Any]:
    """`parts.layout_kwargs` with what the config says beside the shapes."""
    kwargs = parts.layout_kwargs(tensors, names)
    config.must_agree("layers_per_block", kwargs["num_blocks"])
    if (groups := config.integer("norm_num_groups", 32, at_least=1)) != 32:
        kwargs["norm_groups"] = groups
    return kwargs


def pixels(config: JsonObject) -> dict[str, Any]:
    """Values for `Preprocess`."""
    sides = config.sides("sample_size") or [parts.SIDE, parts.SIDE]
    return parts.pixels() | {"image_size": sides}


def config_of(layout: Layout, latent_channels: int, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that all of diffusers' autoencoders of this form have."""
    levels = range(len(layout.multipliers))
    own = layout.decoder_attention_levels
    up = layout.attention_levels if own is None else own
    side = [int(pixels) for pixels in preprocess["image_size"]]
    return {
        "act_fn": "silu",
        "block_out_channels": [layout.channels * multiplier for multiplier in layout.multipliers],
        "down_block_types": [f"{'Attn' if i in layout.attention_levels else ''}DownEncoderBlock2D" for i in levels],
        "up_block_types": [f"{'Attn' if i in up else ''}UpDecoderBlock2D" for i in reversed(levels)],
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": latent_channels,
        "layers_per_block": layout.num_blocks,
        "mid_block_add_attention": layout.middle_attends,
        "norm_num_groups": layout.style.groups,
        "sample_size": side[0] if side[0] == side[1] else side,
    }


def is_plain(layout: Layout) -> bool:
    """Whether diffusers can hold it: its first convolution is as wide as the first level."""
    return layout.multipliers[0] == 1
