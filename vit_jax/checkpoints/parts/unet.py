"""What the families of U-Nets have in common: the modules of one, and how two libraries call them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from vit_jax.checkpoints.name_map import Entry, Shapes, convolution, dense, fused, linear, norm, shape_of
from vit_jax.checkpoints.parts.vit import attention_out
from vit_jax.errors import UserError
from vit_jax.nn.unet_levels import UNetLevels


class Unit(NamedTuple):
    """A module in the levels of a U-Net.

    Args:
        ours: its path, 'down_0/block_1'.
        kind: what it is; "resample" changes the sides.
        level: where it is.
        width: channels that come out.
        widens: whether other channels come in.
    """

    ours: str
    kind: Literal["block", "attention", "resample"]
    level: int
    width: int
    widens: bool = False


def units(model: UNetLevels, *, up: bool = True) -> Iterator[Unit]:
    """All of them in the order in which they are called; with `up` those of the way up too."""
    widths = [model.channels * multiplier for multiplier in model.multipliers]
    last, before = len(widths) - 1, model.channels
    skips = [before]
    for i, width in enumerate(widths):
        for j in range(model.num_blocks):
            yield from _of_block(model, f"down_{i}", i, j, width, before != width)
            before = width
            skips.append(width)
        if i < last:
            yield Unit(f"down_{i}/down", "resample", i, width)
            skips.append(width)
    yield Unit("middle/block_0", "block", last, before)
    if model.middle_attends:
        yield Unit("middle/attention", "attention", last, before)
    yield Unit("middle/block_1", "block", last, before)
    for i, width in reversed(list(enumerate(widths))) if up else ():
        for j in range(model.num_blocks + 1):
            yield from _of_block(model, f"up_{i}", i, j, width, before + skips.pop() != width)
            before = width
        if i:
            yield Unit(f"up_{i}/up", "resample", i, width)


def _of_block(model: UNetLevels, of: str, level: int, number: int, width: int, widens: bool) -> Iterator[Unit]:
    yield Unit(f"{of}/block_{number}", "block", level, width, widens)
    if level in model.attention_levels:
        yield Unit(f"{of}/attention_{number}", "attention", level, width)


@dataclasses.dataclass(frozen=True)
class Names:
    """How a library calls the modules.

    Args:
        places: gives by the paths of all units what is before the names within, without a dot.
        block: within a residual block: norm1, conv1, time, norm2, conv2, shortcut.
        down: the convolution within what halves.
        up: that within what doubles.
        ends: conv_in, time/fc1, time/fc2, norm_out, conv_out.
    """

    places: Callable[[UNetLevels], Mapping[str, str]]
    block: tuple[str, str, str, str, str, str]
    down: str
    up: str
    ends: tuple[str, str, str, str, str]


def _diffusers_places(model: UNetLevels) -> dict[str, str]:
    last, found = len(model.multipliers) - 1, {}
    for unit in units(model):
        of, name = unit.ours.split("/")
        kind, _, number = name.partition("_")
        side = of.split("_")[0]
        block = {"down": f"down_blocks.{unit.level}", "up": f"up_blocks.{last - unit.level}", "middle": "mid_block"}[
            side
        ]
        inner = {"block": "resnets", "attention": "attentions", "down": "downsamplers", "up": "upsamplers"}[kind]
        found[unit.ours] = f"{block}.{inner}.{number or 0}"
    return found


def _compvis_places(model: UNetLevels) -> dict[str, str]:
    """One list of steps down and one up, each a list of modules; the middle is one more."""
    found, steps, inner, before = {}, {"down": 0, "up": -1, "middle": -1}, 0, ""
    lists = {"down": "input_blocks", "up": "output_blocks"}
    for unit in units(model):
        side = unit.ours.split("_")[0].split("/")[0]
        if side == "middle":
            steps[side] += 1
            found[unit.ours] = f"middle_block.{steps[side]}"
        else:
            # What doubles is the last module of a step; what halves is a step of its own.
            begins = unit.kind == "block" or unit.ours.endswith("/down")
            inner = 0 if begins or before != side else inner + 1
            steps[side] += begins
            found[unit.ours] = f"{lists[side]}.{steps[side]}.{inner}"
        before = side
    return found


DIFFUSERS = Names(
    _diffusers_places,
    ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"),
    "conv",
    "conv",
    ("conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_norm_out", "conv_out"),
)
COMPVIS = Names(
    _compvis_places,
    ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection"),
    "op",
    "conv",
    ("input_blocks.0.0", "time_embed.0", "time_embed.2", "out.0", "out.2"),
)

Attention = Callable[[Unit, str], list[Entry]]


def levels_entries(model: UNetLevels, names: Names, attention: Attention, *, up: bool = True) -> list[Entry]:
    """Those of the time, the first convolution and all levels; with `up` also the way up and what is behind it.

    Args:
        attention: gives those of a unit by the names of both sides.
    """
    conv_in, fc1, fc2, norm_out, conv_out = names.ends
    found = [*convolution("conv_in", conv_in), *dense("time/fc1", fc1), *dense("time/fc2", fc2)]
    places = names.places(model)
    for unit in units(model, up=up):
        theirs = places[unit.ours]
        if unit.kind == "attention":
            found += attention(unit, theirs)
        elif unit.kind == "block" or model.blocks.residual_resample:
            found += _block_entries(unit.ours, theirs, names, unit.widens)
        else:
            inner = names.down if unit.ours.endswith("/down") else names.up
            found += convolution(f"{unit.ours}/conv", f"{theirs}.{inner}")
    return found + ([*norm("norm_out", norm_out), *convolution("conv_out", conv_out)] if up else [])


def _block_entries(ours: str, theirs: str, names: Names, shortcut: bool) -> list[Entry]:
    norm1, conv1, time, norm2, conv2, last = (f"{theirs}.{name}" for name in names.block)
    found = [
        *norm(f"{ours}/norm1", norm1), *convolution(f"{ours}/conv1", conv1), *dense(f"{ours}/time", time),
        *norm(f"{ours}/norm2", norm2), *convolution(f"{ours}/conv2", conv2),
    ]  # fmt: skip
    return found + (convolution(f"{ours}/shortcut", last) if shortcut else [])


def transformer_entries(
    ours: str, theirs: str, *, width: int, heads: int, context_width: int, linear_ends: bool
) -> list[Entry]:
    """Those of a spatial transformer, which both libraries call alike."""
    block, inner = f"{ours}/block", f"{theirs}.transformer_blocks.0"
    ends = dense if linear_ends else convolution
    found = [*norm(f"{ours}/norm", f"{theirs}.norm"), *ends(f"{ours}/proj_in", f"{theirs}.proj_in")]
    found += ends(f"{ours}/proj_out", f"{theirs}.proj_out")
    for mine, other in (("norm1", "norm1"), ("norm_cross", "norm2"), ("norm2", "norm3")):
        found += norm(f"{block}/{mine}", f"{inner}.{other}")
    shape = (heads, width // heads)
    for mine, other, read in (("attention", "attn1", width), ("cross", "attn2", context_width)):
        for part, name, inputs in (("query", "to_q", width), ("key", "to_k", read), ("value", "to_v", read)):
            found.append(linear(f"{block}/{mine}/{part}/kernel", f"{inner}.{other}.{name}.weight", (inputs, *shape), 2))
        found += attention_out(f"{block}/{mine}/out", f"{inner}.{other}.to_out.0", width, heads)
    fc1, gate, joined = f"{block}/mlp/fc1", f"{block}/mlp/gate", f"{inner}.ff.net.0.proj"
    halves = [linear(f"{one}/kernel", f"{joined}.weight") for one in (fc1, gate)]
    found += [
        fused([f"{fc1}/kernel", f"{gate}/kernel"], f"{joined}.weight", halves),
        fused([f"{fc1}/bias", f"{gate}/bias"], f"{joined}.bias"),
    ]
    return found + dense(f"{block}/mlp/fc2", f"{inner}.ff.net.2")


def multipliers_of(channels: int, widths: list[int]) -> list[int]:
    """Channels of levels over those of the first convolution.

    Raises:
        UserError: for one that is no multiple.
    """
    for level, width in enumerate(widths):
        if width % channels:
            raise UserError(
                f"Level {level} of the U-Net has {width} channels, no multiple of the {channels} of its first "
                "convolution",
                "Only such U-Nets can be read",
            )
    return [width // channels for width in widths]


def diffusers_sizes(tensors: Shapes) -> tuple[int, list[int], int, list[int]]:
    """Channels, multipliers, residual blocks of a level, and which levels have attention, of a file in diffusers'
    names."""
    channels, widths, attention = shape_of(tensors, "conv_in.weight", 4)[0], [], []
    while (first := f"down_blocks.{len(widths)}.resnets.0.conv1.weight") in tensors:
        if any(name.startswith(f"down_blocks.{len(widths)}.attentions.0.") for name in tensors):
            attention.append(len(widths))
        widths.append(shape_of(tensors, first, 4)[0])
    blocks = 0
    while f"down_blocks.0.resnets.{blocks}.conv1.weight" in tensors:
        blocks += 1
    return channels, multipliers_of(channels, widths), blocks, attention


def compvis_sizes(tensors: Shapes) -> tuple[int, list[int], int, list[int]]:
    """The same of a file in the names of CompVis, where steps of all levels follow each other."""
    channels, widths, attention = shape_of(tensors, "input_blocks.0.0.weight", 4)[0], [], []
    steps, level = 0, 0
    while True:
        step = f"input_blocks.{steps + 1}"
        if f"{step}.0.in_layers.2.weight" in tensors:
            width = shape_of(tensors, f"{step}.0.in_layers.2.weight", 4)[0]
            if level == len(widths):
                widths.append(width)
                if f"{step}.1.norm.weight" in tensors:
                    attention.append(level)
        elif f"{step}.0.op.weight" in tensors:
            level += 1
        else:
            break
        steps += 1
    # Each level but the last has a step that halves.
    blocks = (steps - level) // (level + 1)
    return channels, multipliers_of(channels, widths), blocks, attention
