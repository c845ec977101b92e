"""U-Nets of diffusion in pixels as diffusers names them (`UNet2DModel`): DDPM's and ADM's."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import DIFFUSERS_UNET
from vit_jax.checkpoints.json_file import JsonObject, shown
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, same, shape_of
from vit_jax.checkpoints.parts import autoencoder as parts
from vit_jax.checkpoints.parts import diffusers, diffusers_scheduler, unet
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.pipeline_folder import INDEX
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.unet import build

LIBRARY = "diffusers"
MODELS = "UNet2DModel"
WRITES = ("unet",)
COMPARED = "predictions of diffusers' own models, DDPM's and ADM's options; files of ours read by diffusers"

_HALVES_IN_BLOCKS = "down_blocks.0.downsamplers.0.conv1.weight"
_NAMES = {"": parts.DIFFUSERS, "old": parts.OLD_DIFFUSERS}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if "conv_in.weight" not in tensors or "down_blocks.0.resnets.0.time_emb_proj.weight" not in tensors:
        return None
    if any(".attn2." in name or name.startswith("add_embedding") for name in tensors):
        return None  # a U-Net that reads a text
    config = sidecar.config
    diffusers.check(config, DIFFUSERS_UNET, "UNet2DModel")
    channels, levels, blocks, attention = unet.diffusers_sizes(tensors)
    inputs = shape_of(tensors, "conv_in.weight", 4)[1]
    config.must_agree("layers_per_block", blocks)
    width = shape_of(tensors, "down_blocks.0.resnets.0.conv1.weight", 4)[0]
    modulates = shape_of(tensors, "down_blocks.0.resnets.0.time_emb_proj.weight", 2)[0] == 2 * width
    layout = {"old": any(".query.weight" in name for name in tensors)}
    middle = any(name.startswith("mid_block.attentions.0.") for name in tensors)
    kwargs: dict[str, Any] = {
        "inputs": inputs,
        "outputs": shape_of(tensors, "conv_out.weight", 4)[0],
        "channels": channels,
        "multipliers": levels,
        "num_blocks": blocks,
        "attention_levels": attention,
        "num_classes": shape_of(tensors, "class_embedding.weight", 2, (0, 0))[0],
        # diffusers' heads are 8 channels wide where nothing is said, and its null is one head.
        "head_width": config.integer("attention_head_dim", None if "attention_head_dim" in config else 8, at_least=1),
        "time": _dialect(config),
        "modulates": modulates,
        "residual_resample": _HALVES_IN_BLOCKS in tensors,
        "symmetric": _is_symmetric(config),
        "middle_attention": middle,
        "middle_norm": "mid_block.attentions.0.group_norm.weight" in tensors or not middle,
        "dropout_rate": config.number("dropout", 0.0, at_least=0),
        "norm_groups": config.integer("norm_num_groups", 32, at_least=1),
        "epsilon": config.number("norm_eps", 1e-5, above=0),
    }
    said = {"resnet_time_scale_shift": "scale_shift" if modulates else "default"}
    for key, value in said.items():
        if config.text(key, value) != value:
            raise config.error(key, f"is {config[key]!r}, but the tensors say {value!r}")
    groups = config.integer("attn_norm_num_groups", kwargs["norm_groups"])
    if groups != kwargs["norm_groups"]:
        raise config.error("attn_norm_num_groups", f"is {groups}; only the norm_num_groups of the others can be read")
    remarks = () if config else ("nothing says heads, norms and time of this U-Net: diffusers' defaults are taken",)
    if inputs != 3 or kwargs["outputs"] not in (3, 6):  # latents, whose autoencoder is elsewhere
        return Published("unet", kwargs, None, layout, (), remarks, task={"name": "features", "kwargs": {}})
    labels = tuple(f"class {i}" for i in range(kwargs["num_classes"]))
    noise, more = diffusers_scheduler.said_of_pixels(sidecar.scheduler, kwargs["outputs"] == 6)
    said, remarks = {"conditional": bool(labels), **noise}, (*remarks, *more)
    task = {"name": "ddpm", "kwargs": said, "given": ["inputs", "outputs", "num_classes"]}
    return Published("unet", kwargs, diffusers.pixels(config), layout, labels, remarks, task=task)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout says whether attention has its `old` names."""
    model = build(**complete(build, kwargs))
    names = _NAMES["old" if layout.get("old") else ""]

    def attention(unit: unet.Unit, theirs: str) -> list[Entry]:
        found = parts.attention_entries(unit.ours, f"{theirs}.", names)
        normed = model.middle_normed or unit.ours != "middle/attention"
        return found if normed else [one for one in found if "/norm/" not in one.ours[0]]

    entries = unet.levels_entries(model, unet.DIFFUSERS, attention)
    if model.num_classes:
        entries.append(same("classes/embedding", "class_embedding.weight"))
    return NameMap(entries)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "unet"):
        return None
    kwargs = complete(build, metadata["model"]["kwargs"])
    levels = range(len(kwargs["multipliers"]))
    if kwargs["multipliers"][0] != 1 or kwargs["middle_norm"] == kwargs["modulates"]:
        return None
    how = "resnet" if kwargs["residual_resample"] else "conv"
    plain = "Resnet{}sampleBlock2D" if kwargs["residual_resample"] else "{}Block2D"
    kinds = ["Attn{}Block2D" if i in kwargs["attention_levels"] else plain for i in levels]
    side = [int(pixels) for pixels in metadata["preprocess"]["image_size"]] if metadata["preprocess"] else [None, None]
    config = {
        "_class_name": "UNet2DModel",
        "sample_size": side[0] if side[0] == side[1] else side,
        "in_channels": kwargs["inputs"],
        "out_channels": kwargs["outputs"],
        "block_out_channels": [kwargs["channels"] * multiplier for multiplier in kwargs["multipliers"]],
        "down_block_types": [kind.format("Down") for kind in kinds],
        "up_block_types": [kind.format("Up") for kind in reversed(kinds)],
        "layers_per_block": kwargs["num_blocks"],
        "attention_head_dim": kwargs["head_width"],
        "flip_sin_to_cos": kwargs["time"] == "adm",
        "freq_shift": int(kwargs["time"] == "ddpm"),
        "downsample_padding": int(kwargs["symmetric"]),
        "downsample_type": how,
        "upsample_type": how,
        "resnet_time_scale_shift": "scale_shift" if kwargs["modulates"] else "default",
        "add_attention": kwargs["middle_attention"],
        "num_class_embeds": kwargs["num_classes"] or None,
        "dropout": kwargs["dropout_rate"],
        "norm_num_groups": kwargs["norm_groups"],
        "norm_eps": kwargs["epsilon"],
        "act_fn": "silu",
    }
    return {"config.json": config, **_sampler(metadata.get("task"), kwargs)}


def _sampler(task: Mapping[str, Any] | None, kwargs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What says the noise that the U-Net was trained with, which its own config has no place for; and of one that draws
    images unasked the pipeline that draws them. Nothing of a U-Net whose task has no noise, or is not known."""
    files = diffusers_scheduler.files_of_pixels(task)
    if files and kwargs["inputs"] == 3 and not kwargs["num_classes"]:
        files[INDEX] = {
            "_class_name": "DDPMPipeline",
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
        }
    return files


def _dialect(config: JsonObject) -> str:
    """Of the time."""
    said = (not config.boolean("flip_sin_to_cos", True), config.integer("freq_shift", 0))
    known = {(True, 1): "ddpm", (False, 0): "adm"}
    if said not in known:
        raise config.error("freq_shift", f"is {shown(said[1])}, with which no order of sines and cosines is known")
    return known[said]


def _is_symmetric(config: JsonObject) -> bool:
    return config.integer("downsample_padding", 1, at_most=1) == 1
