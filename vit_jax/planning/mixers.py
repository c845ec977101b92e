"""One layer of each kind of attention, of the same signature and width, to compare what they cost.

Every layer is attention alone, between the same four projections: no norm, no MLP, no residual branch.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.flops import mixing_flops, product_flops
from vit_jax.nn.multi_head import MultiHeadAttention
from vit_jax.nn.style import BlockStyle, Execution

Grid = tuple[int, int]


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

    Raises:
        UserError: when they do not.
    """

    width: int
    heads: int

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


KINDS: Mapping[str, type[Mixer]] = {"softmax": Softmax}
