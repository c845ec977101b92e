"""What the families of U-Nets with a context and of ControlNets have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import Entry, Shapes, convolution, shape_of
from vit_jax.checkpoints.parts import unet
from vit_jax.checkpoints.parts.autoencoder import FIRST_STAGE
from vit_jax.errors import UserError
from vit_jax.models.conditional_unet import ConditionalBlocks
from vit_jax.models.controlnet import ControlNet
from vit_jax.nn.unet_levels import UNetLevels

_KEY = "attn2.to_k.weight"
_COMPVIS_MIDDLE = "middle_block.1"
_HEADS = 8  # of diffusers where nothing is said, and of Stable Diffusion 1
_HEAD_WIDTH = 64  # of Stable Diffusion 2


def is_conditional(tensors: Shapes) -> bool:
    """Whether these are diffusers' names of something with cross-attention."""
    return "conv_in.weight" in tensors and any(
        name.startswith("mid_block.attentions.0.") and name.endswith(_KEY) for name in tensors
    )


def attention_of(model: UNetLevels) -> unet.Attention:
    """The entries of its spatial transformers, under the names of either library."""
    blocks: ConditionalBlocks = model.blocks

    def attention(unit: unet.Unit, theirs: str) -> list[Entry]:
        return unet.transformer_entries(
            unit.ours, theirs, width=unit.width, heads=blocks.heads[unit.level], context_width=blocks.context_width,
            linear_ends=blocks.linear,
        )  # fmt: skip

    return attention


def check(tensors: Shapes) -> None:
    """Raises a UserError for what only larger models have."""
    for what, found in (
        ("two Transformer blocks after another", ".transformer_blocks.1."),
        ("an embedding of the whole text", "add_embedding."),
        ("an embedding of classes", "class_embedding."),
        ("an embedding of classes", "label_emb."),
    ):
        if any(found in name for name in tensors):
            raise UserError(f"This U-Net has {what}, which vit_jax does not have", "Use one of Stable Diffusion 1 or 2")


def attention_kwargs(tensors: Shapes, middle: str) -> dict[str, Any]:
    """What the shapes of a spatial transformer say, by what is before its names."""
    return {
        "context_width": shape_of(tensors, f"{middle}.transformer_blocks.0.{_KEY}", 2)[1],
        "linear": len(tensors.get(f"{middle}.proj_in.weight", (0, 0, 0, 0))) == 2,
    }


def assumed_heads(kwargs: Mapping[str, Any]) -> tuple[list[int], tuple[str, ...]]:
    """Heads where no file says them, and a remark on that."""
    widths = [kwargs["channels"] * multiplier for multiplier in kwargs["multipliers"]]
    if kwargs["linear"] and not any(width % _HEAD_WIDTH for width in widths):
        return [width // _HEAD_WIDTH for width in widths], (
            f"nothing says how many heads this U-Net has: {_HEAD_WIDTH} channels of each are taken, as in Stable "
            "Diffusion 2",
        )
    return [_HEADS] * len(widths), (
        f"nothing says how many heads this U-Net has: {_HEADS} are taken, as in Stable Diffusion 1",
    )


def diffusers_kwargs(tensors: Shapes, config: JsonObject) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Arguments of a model in diffusers' names, and remarks."""
    check(tensors)
    sizes, inputs = unet.diffusers_sizes(tensors), shape_of(tensors, "conv_in.weight", 4)[1]
    kwargs = _kwargs(sizes, inputs, attention_kwargs(tensors, "mid_block.attentions.0"))
    channels, multipliers = kwargs["channels"], kwargs["multipliers"]
    config.must_agree("layers_per_block", kwargs["num_blocks"])
    config.must_agree("cross_attention_dim", kwargs["context_width"])
    remarks: tuple[str, ...] = ()
    if "attention_head_dim" in config:
        # The library calls their number so.
        said = config["attention_head_dim"]
        if isinstance(said, int):
            said = [config.integer("attention_head_dim", at_least=1)] * len(multipliers)
        else:
            said = config.integers("attention_head_dim", len(multipliers), at_least=1)
        kwargs["heads"] = said or [_HEADS] * len(multipliers)
    else:
        kwargs["heads"], remarks = assumed_heads(kwargs)
    for level, heads in enumerate(kwargs["heads"]):
        if channels * multipliers[level] % heads:
            raise config.error("attention_head_dim", f"is {heads} at level {level}, which do not divide its channels")
    kwargs["norm_groups"] = config.integer("norm_num_groups", 32, at_least=1)
    kwargs["epsilon"] = config.number("norm_eps", 1e-5, above=0)
    if config and config.boolean("use_linear_projection", False) != kwargs["linear"]:
        raise config.error("use_linear_projection", f"is {not kwargs['linear']}, and the tensors say the other")
    return kwargs, remarks


def compvis_kwargs(tensors: Shapes) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The same of a file in the names of CompVis, which says no heads."""
    check(tensors)
    inputs = shape_of(tensors, "input_blocks.0.0.weight", 4)[1]
    kwargs = _kwargs(unet.compvis_sizes(tensors), inputs, attention_kwargs(tensors, _COMPVIS_MIDDLE))
    kwargs["heads"], remarks = assumed_heads(kwargs)
    return kwargs, remarks


def compvis_part(tensors: Shapes, prefixes: Sequence[str]) -> tuple[str, dict[str, tuple[int, ...]]] | None:
    """A network with cross-attention in a file of CompVis: what is before its names, and its tensors without that.
    None for others, and for a whole model with its autoencoder."""
    if any(name.startswith(FIRST_STAGE) for name in tensors):
        return None
    for prefix in prefixes:
        if f"{prefix}{_COMPVIS_MIDDLE}.transformer_blocks.0.{_KEY}" in tensors:
            return prefix, {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    return None


def _kwargs(sizes: tuple[int, list[int], int, list[int]], inputs: int, attention: dict[str, Any]) -> dict[str, Any]:
    names = ("channels", "multipliers", "num_blocks", "attention_levels")
    return {"inputs": inputs, **dict(zip(names, sizes, strict=True)), **attention}


def diffusers_config(kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """What both kinds of config.json have; None for a model whose first level is wider than its first convolution, or
    that reads classes."""
    if kwargs["multipliers"][0] != 1 or kwargs.get("num_classes"):
        return None
    levels, heads = range(len(kwargs["multipliers"])), kwargs["heads"]
    return {
        "in_channels": kwargs["inputs"],
        "block_out_channels": [kwargs["channels"] * multiplier for multiplier in kwargs["multipliers"]],
        "down_block_types": [f"{'CrossAttn' if i in kwargs['attention_levels'] else ''}DownBlock2D" for i in levels],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "layers_per_block": kwargs["num_blocks"],
        "attention_head_dim": heads if isinstance(heads, int) else list(heads),
        "cross_attention_dim": kwargs["context_width"],
        "use_linear_projection": kwargs["linear"],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "norm_num_groups": kwargs["norm_groups"],
        "norm_eps": kwargs["epsilon"],
        "act_fn": "silu",
    }


class ControlNames(NamedTuple):
    """How a library calls what a ControlNet has beside the half of a U-Net.

    Args:
        stack: names of the stack's convolutions, by how many there are.
        zero: what is behind each map of the way down, by its number.
        zero_middle: what is behind the middle.
    """

    stack: Callable[[int], list[str]]
    zero: str
    zero_middle: str


def _diffusers_stack(count: int) -> list[str]:
    inner = [f"blocks.{i}" for i in range(count - 2)]
    return [f"controlnet_cond_embedding.{name}" for name in ("conv_in", *inner, "conv_out")]


def _compvis_stack(count: int) -> list[str]:
    return [f"input_hint_block.{2 * i}" for i in range(count)]  # each but the last with its SiLU


DIFFUSERS_CONTROL = ControlNames(_diffusers_stack, "controlnet_down_blocks.{}", "controlnet_mid_block")
COMPVIS_CONTROL = ControlNames(_compvis_stack, "zero_convs.{}.0", "middle_block_out.0")


def control_kwargs(tensors: Shapes, names: ControlNames) -> dict[str, Any]:
    """Arguments that are the ControlNet's own."""
    count = 2
    while all(f"{name}.weight" in tensors for name in names.stack(count + 1)):
        count += 1
    convs = [shape_of(tensors, f"{name}.weight", 4) for name in names.stack(count)]
    return {"control_channels": convs[0][1], "hint_widths": [shape[0] for shape in convs[:-1:2]]}


def control_entries(model: ControlNet, names: ControlNames) -> list[Entry]:
    """Those that are the ControlNet's own."""
    halves = range(len(model.hint_widths) - 1)
    ours = ["conv_in", *(name for i in halves for name in (f"keep_{i}", f"halve_{i}")), "conv_out"]
    found = []
    for mine, other in zip(ours, names.stack(len(ours)), strict=True):
        found += convolution(f"hint/{mine}", other)
    # The first convolution gives a map too, and so does each block and each way to half.
    maps = 1 + sum(one.ours.startswith("down_") and one.kind != "attention" for one in unet.units(model, up=False))
    for i in range(maps):
        found += convolution(f"zero_{i}", names.zero.format(i))
    return found + convolution("zero_middle", names.zero_middle)
