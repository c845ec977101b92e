"""Attention over a grid with decomposed relative positions: a distance of rows and one of columns (MViTv2, ViTDet).

What query i adds to the logit of key j is q_i . (r[row_i - row_j] + c[column_i - column_j]), of the query as it is
projected, before the scale ("MViTv2", arXiv:2112.01526, equation 4). Written out for all queries that is as large as
the logits; here it exists for a few rows of queries at a time.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.attention import attention
from vit_jax.nn.multi_head import MultiHeadAttention

# Logits of one head that are computed at once: 512 queries of a map of 64x64 places.
_AT_ONCE = 2**21

TABLES = ("rel_pos_rows", "rel_pos_columns")


def distances(table: Float[Array, "distances d"]) -> Float[Array, "side side d"]:
    """Of each query and key along one axis the vector of their distance, query minus key."""
    side = (table.shape[0] + 1) // 2
    index = np.arange(side)[:, None] - np.arange(side)[None, :] + side - 1
    return table[index]


def decomposed_attention(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b t h d"],
    v: Float[Array, "b t h d"],
    rows: Float[Array, "r1 d"],
    columns: Float[Array, "c1 d"],
    grid: tuple[int, int],
    *,
    return_weights: bool = False,
    dropout_rate: float = 0.0,
    **how: Any,
) -> Float[Array, "b t h d"] | tuple[Float[Array, "b t h d"], Float[Array, "b h t t"]]:
    """Attention of all places of a grid to each other with decomposed relative positions.

    Args:
        q: queries of the places, row by row.
        rows: a vector for each distance of rows, from 1 - height to height - 1.
        columns: the same of columns.
        grid: rows and columns of places.
        return_weights: see `vit_jax.nn.attention.attention`, like `dropout_rate` and `how`. Weights that are returned
            or dropped are written out for all queries.
    """
    batch, _, heads, width = q.shape
    height, wide = grid
    down, right = distances(rows).astype(q.dtype), distances(columns).astype(q.dtype)

    def attend(q: Array, down: Array) -> Any:
        places = q.reshape(batch, -1, wide, heads, width)
        by_row = jnp.einsum("brchd,rkd->bhrck", places, down, preferred_element_type=jnp.float32)
        by_column = jnp.einsum("brchd,ckd->bhrck", places, right, preferred_element_type=jnp.float32)
        bias = by_row[..., :, None] + by_column[..., None, :]
        bias = bias.reshape(batch, heads, q.shape[1], height * wide)
        return attention(q, k, v, bias=bias, return_weights=return_weights, dropout_rate=dropout_rate, **how)

    at_once = rows_at_once(grid)
    if at_once == height or return_weights or dropout_rate > 0:
        return attend(q, down)
    blocks = q.reshape(batch, height // at_once, at_once * wide, heads, width).swapaxes(0, 1)
    down = down.reshape(-1, at_once, height, width)
    # Recomputed, or the backward pass would keep the weights of every block: all of them.
    out = jax.lax.map(jax.checkpoint(lambda block: attend(*block), prevent_cse=False), (blocks, down))
    return out.swapaxes(0, 1).reshape(q.shape)


def rows_at_once(grid: tuple[int, int]) -> int:
    """How many rows of queries are attended from at a time: a divisor of all, at least one."""
    height, wide = grid
    fitting = (n for n in range(height, 0, -1) if height % n == 0 and n * wide * height * wide <= _AT_ONCE)
    return next(fitting, 1)


class DecomposedAttention(MultiHeadAttention):
    """Self-attention of the places of a grid, with decomposed relative positions.

    Parameters beside those of `MultiHeadAttention`: `rel_pos_rows` [2h-1, d] and `rel_pos_columns` [2w-1, d], the same
    for all heads, which start at zero.

    Attributes:
        grid: rows and columns of the tokens.
    """

    ADDS_TO_LOGITS: ClassVar[bool] = True

    grid: tuple[int, int] = (1, 1)

    def attend(
        self, q: Float[Array, "b t h d"], k: Float[Array, "b t h d"], v: Float[Array, "b t h d"],
        *, bias: None = None, mask: None = None, **how: Any,
    ) -> Float[Array, "b t h d"] | tuple[Float[Array, "b t h d"], Float[Array, "b h t t"]]:  # fmt: skip
        """See `decomposed_attention`.

        Raises:
            UserError: for a mask or a bias, or tables of another grid.
        """
        if bias is not None or mask is not None:
            raise UserError("Attention with decomposed positions takes no mask and no bias", "Leave them out")
        tables = [self._table(name, side, q.shape[-1]) for name, side in zip(TABLES, self.grid, strict=True)]
        return decomposed_attention(q, k, v, *tables, self.grid, **how)

    def _table(self, name: str, side: int, width: int) -> Float[Array, "distances d"]:
        if self.has_variable("params", name):
            held = (self.get_variable("params", name).shape[0] + 1) // 2
            if held != side:
                raise UserError(
                    f"A map has {side} {name.rpartition('_')[2]} where tokens see each other, but the parameters hold "
                    f"the relative positions of {held}",
                    "Use images of the size that they were made for, or load them with this image_size, which resizes "
                    "tables",
                )
        return self.param(name, nn.initializers.zeros, (2 * side - 1, width))
