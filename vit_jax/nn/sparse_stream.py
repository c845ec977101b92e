"""Blocks over a stream of other tokens and then the places of an image, whose places see a part of those before them.

Ramesh et al., "Zero-shot text-to-image generation" (arXiv:2102.12092), appendix B.1 and figure 11, after the sparse
Transformer (arXiv:1904.10509). Every token sees all of the stream's other tokens that come before it.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax.nn.block import Block
from vit_jax.nn.mask import CAUSAL
from vit_jax.nn.multi_head import Cache, MultiHeadAttention
from vit_jax.nn.style import BlockStyle, check_choice
from vit_jax.ranges import Count, Natural

Pattern = Literal["full", "row", "column", "conv"]


@dataclasses.dataclass(frozen=True)
class StreamStyle(BlockStyle):
    """What a block over a stream computes: a block's style, and

    Args:
        pattern: which places before it a place of the image sees: "full" all; "row" those from the one above it on, as
            one reads; "column" those of its own column; "conv" those in a square around it.
        before: tokens in front of those of the image.
        columns: of the image.
        reach: of "conv", places to each side; 5 is a kernel of 11.
    """

    pattern: Pattern = "full"
    before: Natural = 0
    columns: Count = 1
    reach: Count = 5

    def __post_init__(self):
        super().__post_init__()
        check_choice("pattern", self.pattern, get_args(Pattern))

    def seen(self, queries: Int[Array, "*b t"], keys: Int[Array, " s"]) -> Bool[Array, "*b t s"]:
        """Which keys each query sees, both by their positions in the stream."""
        queries = queries[..., None]
        place, other = queries - self.before, keys - self.before
        behind = place - other
        (row, column), (other_row, other_column) = (jnp.divmod(x, self.columns) for x in (place, other))
        of_image = {
            "full": behind >= 0,
            "row": behind <= self.columns,
            "column": column == other_column,
            "conv": (row - other_row <= self.reach) & (abs(column - other_column) <= self.reach),
        }[self.pattern]
        return (keys <= queries) & ((other < 0) | of_image)


class StreamBlock(Block):
    """A block over a stream. Parameters: those of `Block`."""

    style: StreamStyle

    def self_attention(
        self,
        y: Float[Array, "b t width"],
        cache: Cache | None,
        grid: tuple[int, int] | None,
        *,
        at: Int[Array, " b"] | Int[Array, ""] | int | None,
        **how: Any,
    ) -> tuple[Float[Array, "b t width"], Cache | None]:
        """Of each token to what its pattern lets it see; the mask is the style's."""
        del grid
        length = y.shape[1]
        if self.style.pattern == "full":
            mask = CAUSAL
        else:
            first = jnp.asarray(0 if at is None else at)[..., None]
            keys = length if cache is None else cache.keys.shape[1]
            mask = self.style.seen(first + jnp.arange(length), jnp.arange(keys))
            mask = mask[:, None] if mask.ndim == 3 else mask[None, None]
        layer = MultiHeadAttention(self.style, self.execution, name="attention")
        return layer(y, None, cache, at=at, **{**how, "mask": mask})
