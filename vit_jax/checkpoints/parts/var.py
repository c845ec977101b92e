"""What the authors of VAR and those of HART after them name alike: attention and modulation of a block."""

from collections.abc import Sequence

import numpy as np

from vit_jax.checkpoints.name_map import Entry, NDArray, fused, linear, same
from vit_jax.checkpoints.parts.vit import attention_out, projection
from vit_jax.nn.style import BlockStyle

# Of theirs, which are gate, gate, scale, scale, shift, shift, the one that each of ours is; and of scale, shift.
OF_BLOCKS, OF_THE_END = (4, 2, 0, 5, 3, 1), (1, 0)
# Constants, which their code keeps beside the parameters.
CONSTANTS = ("lvl_1L", "attn_bias_for_masking", "blocks.*.attn.zero_k_bias")

_QKV = ("query", "key", "value")


def attention(ours: str, theirs: str, qkv: str, width: int, style: BlockStyle) -> list[Entry]:
    """An attention whose keys have no bias.

    Args:
        qkv: their name of the fused projection.
    """
    heads = style.num_heads
    parts = [projection(f"{ours}/{name}", f"{theirs}.{qkv}.weight", None, width, heads)[0] for name in _QKV]
    shape = (heads, width // heads)
    found = [
        fused([part.ours[0] for part in parts], f"{theirs}.{qkv}.weight", parts),
        same(f"{ours}/query/bias", f"{theirs}.q_bias", shape, (width,)),
        same(f"{ours}/value/bias", f"{theirs}.v_bias", shape, (width,)),
        *attention_out(f"{ours}/out", f"{theirs}.proj", width, heads),
    ]
    if style.qk_norm == "l2":
        found.append(same(f"{ours}/norm_scale", f"{theirs}.scale_mul_1H11", (heads,), (1, heads, 1, 1)))
    return found


def modulation(ours: str, theirs: str, order: Sequence[int]) -> list[Entry]:
    """A linear layer whose outputs are several vectors, in another order: `OF_BLOCKS` or `OF_THE_END`."""
    parts, back = len(order), list(np.argsort(order))
    kernel = linear(f"{ours}/kernel", f"{theirs}.weight")

    def read(w: NDArray) -> list[NDArray]:
        (matrix,) = kernel.read(w)
        return [np.ascontiguousarray(matrix.reshape(matrix.shape[0], parts, -1)[:, list(order)])]

    def write(x: NDArray) -> list[NDArray]:
        return list(kernel.write(x[:, back].reshape(x.shape[0], -1)))

    return [Entry(kernel.ours, kernel.theirs, read, write), rows(f"{ours}/bias", f"{theirs}.bias", order)]


def rows(ours: str, theirs: str, order: Sequence[int], stored: Sequence[int] = (-1,)) -> Entry:
    """Several vectors in another order, which the file has in the shape `stored`."""
    back = list(np.argsort(order))
    return Entry(
        (ours,), (theirs,),
        lambda x: [x.reshape(len(order), -1)[list(order)]],
        lambda x: [x[back].reshape(*stored)],
    )  # fmt: skip
