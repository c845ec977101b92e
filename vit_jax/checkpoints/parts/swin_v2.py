"""What the families of Swin v2 have in common: entries of its blocks."""

import dataclasses

from vit_jax.checkpoints.name_map import Entry, dense, linear, same
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.swin import SwinNames, around_attention


@dataclasses.dataclass(frozen=True)
class SwinV2Names(SwinNames):
    """Names of a Swin v2's tensors, see `SwinNames`; there is no table.

    Args:
        scale: logarithm of what multiplies the cosines, [H, 1, 1].
        positions: what stands before the numbers of the two layers that compute positions.
        query_bias: keys have none.
    """

    scale: str = ""
    positions: str = ""
    query_bias: str = ""
    value_bias: str = ""


def block_entries(ours: str, theirs: str, names: SwinV2Names, width: int, heads: int) -> list[Entry]:
    """Entries for a block, by what stands before the names of its tensors."""
    attention, head = f"{ours}/attention", (heads, width // heads)
    found = around_attention(ours, theirs, names, width, heads)
    if len(names.qkv) == 1:
        order = ("query", "key", "value")
        found += parts.fused_projections(attention, order, f"{theirs}{names.qkv[0]}.weight", None, width, heads)
    else:
        for part, name in zip(("query", "key", "value"), names.qkv, strict=True):
            found += parts.projection(f"{attention}/{part}", f"{theirs}{name}.weight", None, width, heads)
    found += [
        same(f"{attention}/query/bias", theirs + names.query_bias, head, (width,)),
        same(f"{attention}/value/bias", theirs + names.value_bias, head, (width,)),
        same(f"{attention}/norm_scale", theirs + names.scale, (heads,), (heads, 1, 1)),
        *dense(f"{ours}/positions/fc1", f"{theirs}{names.positions}0"),
        linear(f"{ours}/positions/fc2/kernel", f"{theirs}{names.positions}2.weight"),
    ]
    return found
