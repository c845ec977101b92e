"""The Transformer block over a map, in windows or global, with decomposed relative positions (ViTDet, SAM)."""

import dataclasses
from typing import Any

from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.block import Block
from vit_jax.nn.decomposed_attention import DecomposedAttention
from vit_jax.nn.multi_head import MultiHeadAttention
from vit_jax.nn.style import BlockStyle
from vit_jax.nn.window import Windows
from vit_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class GridStyle(BlockStyle):
    """What a block over a map computes: a block's style, and

    Args:
        window_size: places along a side of a window; None for a block in which all places see each other. A map that
            windows do not divide is filled up with zeros, however small it is, which are seen like everything else.
        relative_positions: whether there are decomposed relative positions.
    """

    window_size: Count | None = None
    relative_positions: bool = True

    def windows(self, grid: tuple[int, int]) -> Windows:
        """Those of a grid; one that is all of it for a global block."""
        return Windows(grid, grid if self.window_size is None else (self.window_size,) * 2)


class GridBlock(Block):
    """A block whose tokens are the places of a map and attend to those of their window, or to all.

    Parameters: those of `Block`, with those of `DecomposedAttention` under `attention` where there are positions.
    """

    style: GridStyle

    def self_attention(
        self, y: Float[Array, "b t width"], cache: None, grid: tuple[int, int], *, train: bool, **others: Any
    ) -> tuple[Float[Array, "b t width"], None]:
        """Within each window; what is filled up is zero here, behind the norm.

        Raises:
            UserError: for arguments that only attention among all tokens can use, or a call without a grid.
        """
        if grid is None:
            raise UserError("A block over a map needs to know the grid of its tokens", "Call it with grid=(h, w)")
        if cache is not None or any(value is not None for value in others.values()):
            raise UserError("A block over a map takes no cache, mask, bias or angles", "Leave them out")
        windows = self.style.windows(tuple(grid))
        if self.style.relative_positions:
            layer = DecomposedAttention(self.style, self.execution, grid=windows.size, name="attention")
        else:
            layer = MultiHeadAttention(self.style, self.execution, name="attention")
        attended, _ = layer(windows.split(y), train=train)
        return windows.join(attended), None
