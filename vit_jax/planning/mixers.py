"""One layer of each kind of attention, of the same signature and width, to compare what they cost.

Every layer is attention alone, between the same four projections: no norm, no MLP, no residual branch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.flops import linear_mixing_flops, mixing_flops, product_flops, window_mixing_flops
from vit_jax.nn.linear_attention import MultiScaleLinearAttention
from vit_jax.nn.mbconv import MobileStyle
from vit_jax.nn.multi_head import MultiHeadAttention
from vit_jax.nn.pruning import best_first, gathered, kept_count, magnitudes, scattered
from vit_jax.nn.style import BlockStyle, Execution
from vit_jax.nn.window import Windows, region_mask, relative_bias, table_rows, windows_on

Grid = tuple[int, int]
Attend = Callable[[Float[Array, "n m c"]], Float[Array, "n m c"]]


class Counted(NamedTuple):
    """Operations of a layer forward, on paper.

    Args:
        mixing: of attention itself, which is what grows differently from kind to kind.
        others: of projections and convolutions, which grow with the tokens in all kinds.
    """

    mixing: float
    others: float


@dataclasses.dataclass(frozen=True)
class LayerSize:
    """What all kinds share.

    Args:
        width: channels.
        heads: which divide them.
        window: tokens of a side of a window.
        ratio: of the windows that sparse attention leaves out.

    Raises:
        UserError: when they do not.
    """

    width: int
    heads: int
    window: int = 8
    ratio: float = 0.6

    def __post_init__(self):
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise UserError(
                f"A width of {self.width} does not divide into {self.heads} heads", "Change --width or --heads"
            )

    @property
    def style(self) -> BlockStyle:
        return BlockStyle(self.heads, self.width)


class Mixer(nn.Module):
    """A layer of attention on a map of features.

    Attributes:
        size: see `LayerSize`.
        execution: how it is run.
    """

    size: LayerSize
    execution: Execution = Execution()

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        raise NotImplementedError

    def flops(self, grid: Grid) -> Counted:
        """Of one map of this many rows and columns."""
        raise NotImplementedError


class Softmax(Mixer):
    """Every token attends to every token."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        attention = MultiHeadAttention(self.size.style, self.execution, name="attention")
        return attention(tokens, train=False)[0].reshape(x.shape)

    def flops(self, grid: Grid) -> Counted:
        tokens, width = grid[0] * grid[1], self.size.width
        return Counted(mixing_flops(tokens, tokens, width), product_flops(tokens, width, 4 * width))


class Window(Mixer):
    """Every token attends to those of its window, with a bias for each distance (Swin)."""

    SHIFTED: ClassVar[bool] = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        windows = self.windows(x.shape[1:3])
        split = windows.split(x.reshape(x.shape[0], -1, x.shape[-1]))
        attention = MultiHeadAttention(self.size.style, self.execution, name="attention")
        table = self.param(
            "relative_position_bias_table", nn.initializers.normal(0.02), (table_rows(windows.size), self.size.heads)
        )
        bias, regions = relative_bias(table, windows.size), windows.regions()
        if regions is not None:
            bias = bias + region_mask(regions)[:, None]

        def attend(chosen: Float[Array, "n m c"]) -> Float[Array, "n m c"]:
            return attention(chosen, train=False, bias=bias)[0]

        return windows.join(self.of_windows(split, attend, windows)).reshape(x.shape)

    def windows(self, grid: Grid) -> Windows:
        """How the tokens are divided."""
        return windows_on(grid, self.size.window, shifted=self.SHIFTED)

    def of_windows(self, split: Float[Array, "b_n m c"], attend: Attend, windows: Windows) -> Float[Array, "b_n m c"]:
        """What becomes of the windows."""
        del windows
        return attend(split)

    def computed(self, windows: Windows) -> int:
        """How many of the windows are."""
        return windows.count

    def flops(self, grid: Grid) -> Counted:
        windows = self.windows(grid)
        count, width = self.computed(windows), self.size.width
        others = product_flops(count * windows.tokens, width, 4 * width)
        return Counted(window_mixing_flops(count, windows.size, width), others)


class Shifted(Window):
    """The same of windows that are moved by half of one, so that neighbours meet (Swin's second blocks)."""

    SHIFTED: ClassVar[bool] = True


class Sparse(Window):
    """The same of those windows alone in which most is; the others pass unchanged (SparseViT). Finding them counts."""

    def of_windows(self, split: Float[Array, "b_n m c"], attend: Attend, windows: Windows) -> Float[Array, "b_n m c"]:
        of_images = split.reshape(-1, windows.count, *split.shape[1:])
        kept = best_first(magnitudes(of_images))[:, : self.computed(windows)]
        chosen = gathered(of_images, kept)
        new = attend(chosen.reshape(-1, *split.shape[1:])).reshape(chosen.shape)
        return scattered(of_images.astype(jnp.result_type(new)), kept, new).reshape(split.shape)

    def computed(self, windows: Windows) -> int:
        kept = kept_count(windows.count, self.size.ratio)
        if not kept:
            raise UserError(
                f"Sparse attention keeps none of the {windows.count} windows of a grid of "
                f"{windows.grid[0]}x{windows.grid[1]}",
                "Choose a larger --grid",
            )
        return kept


class Linear(Mixer):
    """Every token attends to every token by a plain product, ReLU for softmax: Q (K^T V) (EfficientViT)."""

    SCALES: ClassVar[tuple[int, ...]] = ()

    def setup(self):
        style = MobileStyle(dtype=self.execution.dtype)
        self.attention = MultiScaleLinearAttention(self._head_width, self.SCALES, style=style)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.attention(x, train=False)

    def flops(self, grid: Grid) -> Counted:
        scales, width = 1 + len(self.SCALES), self.size.width
        mixing = scales * linear_mixing_flops(grid[0] * grid[1], self.size.heads, self._head_width)
        whole = MultiScaleLinearAttention(self._head_width, self.SCALES, parent=None).flops(width, grid)
        return Counted(mixing, whole - mixing)

    @property
    def _head_width(self) -> int:
        return self.size.width // self.size.heads


class MultiScale(Linear):
    """The same of tokens and of what 5x5 convolutions gather around them, side by side (EfficientViT's LiteMLA)."""

    SCALES: ClassVar[tuple[int, ...]] = (5,)


KINDS: Mapping[str, type[Mixer]] = {
    "softmax": Softmax,
    "window": Window,
    "shifted": Shifted,
    "sparse": Sparse,
    "linear": Linear,
    "multiscale": MultiScale,
}
