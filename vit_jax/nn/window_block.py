"""The Transformer block that attends in windows, with a table of relative positions (Swin)."""

import dataclasses
from typing import Any, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.block import Block
from vit_jax.nn.multi_head import MultiHeadAttention
from vit_jax.nn.style import BlockStyle, check_choice
from vit_jax.nn.window import Clamp, PadOrder, Windows, region_mask, relative_bias, table_rows, windows_on
from vit_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class WindowStyle(BlockStyle):
    """What a block of windows computes: a block's style, and

    Args:
        window_size: M, places along a side of a window.
        shifted: whether the windows are moved by M // 2.
        pad_order: see `vit_jax.nn.window.Windows`.
        clamp: see `vit_jax.nn.window.windows_on`.
    """

    window_size: Count = 7
    shifted: bool = False
    pad_order: PadOrder = "pad_then_shift"
    clamp: Clamp = "both"

    def __post_init__(self):
        super().__post_init__()
        check_choice("pad_order", self.pad_order, get_args(PadOrder))
        check_choice("clamp", self.clamp, get_args(Clamp))

    def windows(self, grid: tuple[int, int]) -> Windows:
        """Those of a grid."""
        how = {"shifted": self.shifted, "pad_order": self.pad_order, "clamp": self.clamp}
        return windows_on(grid, self.window_size, **how)

    def bias_flops(self, windows: Windows) -> float:
        """Floating point operations of making the bias of relative positions, once for all images."""
        del windows
        return 0.0


class WindowBlock(Block):
    """A block whose tokens attend to those of their window.

    Parameters beside those of `Block`: `relative_position_bias_table` [(2M-1)^2, H]. On a grid that is smaller than a
    window it is that of the smaller window: as with a ViT's positions, parameters belong to a resolution.
    """

    style: WindowStyle

    def windows(self, grid: tuple[int, int]) -> Windows:
        """How the tokens are divided."""
        return self.style.windows(grid)

    def self_attention(
        self, y: Float[Array, "b t width"], cache: None, grid: tuple[int, int], *, train: bool, **others: Any
    ) -> tuple[Float[Array, "b t width"], None]:
        """Within each window; what is filled up is zero here, behind the norm, and seen like everything else.

        Raises:
            UserError: for arguments that only attention among all tokens can use, or a call without a grid.
        """
        if grid is None:
            raise UserError(
                "A block of windows needs to know the grid of its tokens", "Call it with grid=(rows, columns)"
            )
        if cache is not None or any(value is not None for value in others.values()):
            raise UserError("A block of windows takes no cache, mask, bias or angles", "Leave them out")
        windows = self.windows(grid)
        layer = MultiHeadAttention(self.style, self.execution, name="attention")
        attended, _ = layer(windows.split(y), train=train, bias=self.bias(windows))
        return windows.join(attended), None

    def bias(self, windows: Windows) -> Float[Array, "n heads m m"]:
        """Of relative positions, one for all windows; where these are shifted, with the mask of each one's regions.

        Raises:
            UserError: when the table is that of another window.
        """
        name, shape = "relative_position_bias_table", (table_rows(windows.size), self.style.num_heads)
        if self.has_variable("params", name):
            check_table(self.get_variable("params", name).shape, windows)
        table = self.param(name, nn.initializers.truncated_normal(0.02), shape)
        bias, regions = relative_bias(table.astype(jnp.float32), windows.size), windows.regions()
        return bias if regions is None else bias + region_mask(regions)[:, None]


def check_table(shape: tuple[int, ...], windows: Windows) -> None:
    """Refuses the table of another window than a grid has.

    Raises:
        UserError: names both.
    """
    if shape[0] == table_rows(windows.size):
        return
    side = (int(shape[0] ** 0.5 + 0.5) + 1) // 2
    held = f"windows of {side}x{side} places" if (2 * side - 1) ** 2 == shape[0] else f"{shape[0]} distances"
    raise UserError(
        f"A map of {windows.grid[0]}x{windows.grid[1]} places has windows of {windows.size[0]}x{windows.size[1]}, but "
        f"the parameters hold the relative positions of {held}",
        "Use images of the size that they were made for, or load them with this image_size, which resizes tables",
    )
