"""The parameters of `vit_jax.models.efficientvit` in the names of its authors, which timm kept within a block."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.name_map import Entry, Shapes, conv, norm, same, shape_of
from vit_jax.checkpoints.parts.sidecars import complete
from vit_jax.models.efficientvit import build
from vit_jax.models.efficientvit_variants import SERIES, VARIANTS, StageStyle
from vit_jax.nn.stack import block_name

# What a block's convolutions are called here and there.
_BLOCKS = {
    "ds": {"depthwise": "depth_conv", "project": "point_conv"},
    "mb": {"expand": "inverted_conv", "depthwise": "depth_conv", "project": "point_conv"},
    "fmb": {"expand": "spatial_conv", "project": "point_conv"},
    "res": {"conv1": "conv1", "conv2": "conv2"},
}
# Arguments in which a network of one's own may differ from the variant that it names.
SIZES = ("widths", "depths", "head_width", "head_widths")


def conv_norm(ours: str, theirs: str, normalises: bool = True, norm_name: str = "norm") -> list[Entry]:
    """A `vit_jax.nn.mbconv.ConvNorm`, whose norm the file calls so."""
    entries = [conv(f"{ours}/conv/kernel", f"{theirs}.conv.weight")]
    if not normalises:
        return [*entries, same(f"{ours}/conv/bias", f"{theirs}.conv.bias")]
    statistics = (("mean", "running_mean"), ("var", "running_var"))
    return [
        *entries,
        *norm(f"{ours}/norm", f"{theirs}.{norm_name}"),
        *(same(f"batch_stats/{ours}/norm/{one}", f"{theirs}.{norm_name}.{other}") for one, other in statistics),
    ]


def trunk(kwargs: Mapping[str, Any], first: Callable[[int], str], block: Callable[[int, int], str]) -> list[Entry]:
    """All entries of the trunk.

    Args:
        kwargs: of the model.
        first: what the names of a stage's first block begin with; the stem's is of stage 0.
        block: the same for a stage's other blocks, which count from 0.
    """
    model = build(**complete(build, kwargs))
    encoder, entries = model.encoder, []
    for i, stage in enumerate(encoder.stages):
        ours = f"encoder/stage_{i}"
        if i:
            entries += convolutions(f"{ours}/downsample", f"{first(i)}.main", stage.first, stage.fewer_norm)
        else:
            entries += conv_norm(f"{ours}/stem", first(0))
        for j in range(encoder.depths[i] - stage.counts_first):
            entries += _block(f"{ours}/{block_name(j)}", block(i, j), stage)
    return entries


def _block(ours: str, theirs: str, stage: StageStyle) -> list[Entry]:
    if stage.block != "att":
        return convolutions(ours, f"{theirs}.main", stage.block, stage.fewer_norm)
    attention, inner = f"{ours}/attention", f"{theirs}.context_module.main"
    entries = [conv(f"{attention}/qkv/kernel", f"{inner}.qkv.conv.weight")]
    for number, scale in enumerate(stage.scales):
        for place, name in enumerate((f"depthwise_{scale}", f"grouped_{scale}")):
            entries.append(conv(f"{attention}/{name}/kernel", f"{inner}.aggreg.{number}.{place}.weight"))
    return [
        *entries,
        *conv_norm(f"{attention}/proj", f"{inner}.proj"),
        *convolutions(f"{ours}/mbconv", f"{theirs}.local_module.main", "mb", True),
    ]


def convolutions(ours: str, theirs: str, block: str, fewer_norm: bool) -> list[Entry]:
    """A `vit_jax.nn.mbconv.ConvBlock` by the name that `StageStyle` has for it."""
    names = list(_BLOCKS[block].items())
    entries = []
    for i, (one, other) in enumerate(names):
        entries += conv_norm(f"{ours}/{one}", f"{theirs}.{other}", not fewer_norm or i == len(names) - 1)
    return entries


def sizes(
    tensors: Shapes,
    stem: str,
    counts: Sequence[int],
    block: Callable[[int, int], str],
    head: tuple[str, str],
    variants: Collection[str] = frozenset(VARIANTS),
) -> dict[str, Any]:
    """The arguments of `vit_jax.models.efficientvit.build` that shapes show, but for `num_classes`.

    Args:
        stem: name of the first convolution's weight.
        counts: blocks of each stage with its first, of the stem without the first convolution.
        block: what the names of block j of stage i begin with, of which 0 is the stage's first; both from 1 on.
        head: names of the two weights between trunk and linear head.
        variants: those that there are.
    """
    fused = f"{block(1, 0)}.main.spatial_conv.conv.weight" in tensors
    series = ("XL" if len(counts) > 5 else "L") if fused else "B"
    stages = SERIES[series].stages
    lasts = [f"{block(i, 0)}.main.point_conv.conv.weight" for i in range(1, len(counts))]
    inner = "context_module.main.aggreg.0.1.weight"
    attention = [name for i in range(1, len(counts)) if (name := f"{block(i, 1)}.{inner}") in tensors]
    first = [0, *(1 - stage.counts_first for stage in stages[1:])]  # blocks that depth does not count
    values = {
        "widths": tuple(shape_of(tensors, name, 4)[0] for name in (stem, *lasts)),
        "depths": tuple(count - extra for count, extra in zip(counts, first, strict=False)),
        "head_width": shape_of(tensors, attention[0], 4)[1] if attention else None,
    }

    def differing(variant: str) -> dict[str, Any]:
        return {key: _plain(v) for key, v in values.items() if v != getattr(VARIANTS[variant], key)}

    # The variant with most in common.
    named = min(
        (v for v in VARIANTS if v in variants and VARIANTS[v].series == series), key=lambda v: len(differing(v))
    )
    head_widths = tuple(shape_of(tensors, name, r)[0] for name, r in zip(head, (4, 2), strict=True) if name in tensors)
    own = {} if head_widths == VARIANTS[named].head_widths else {"head_widths": list(head_widths)}
    return {"variant": named, **differing(named), **own}


def own_sizes(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `kwargs`, complete ones, in which it differs from the variant that it names."""
    size = VARIANTS[str(kwargs["variant"]).upper()]
    given = {key: _plain(kwargs[key]) for key in SIZES if kwargs[key] is not None}
    return {key: value for key, value in given.items() if value != _plain(getattr(size, key))}


def _plain(value: Any) -> Any:
    """As JSON holds it."""
    return list(value) if isinstance(value, tuple) else value


def numbered(tensors: Iterable[str], pattern: str) -> int:
    """How many numbers there are where the pattern, which matches the beginning of names, has its group."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name, re.ASCII))})
