"""The block of HART (arXiv:2410.10812): both branches have one norm, also where a condition modulates it."""

import functools
from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float, Int

from vit_jax.nn.block import PARTS, drop_path, drops, mlp_of
from vit_jax.nn.mask import Mask
from vit_jax.nn.modulation import Modulation
from vit_jax.nn.multi_head import Cache, MultiHeadAttention
from vit_jax.nn.norm import NORMS
from vit_jax.nn.style import BlockStyle, Execution


class TiedNormBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), by the same norm; called as `vit_jax.nn.block.Block` is.

    With an adaptive style what is normalised is scaled and shifted, and what comes of it gated, all of a condition; the
    norm keeps its own scale beside that.

    Parameters, float32: `norm`, `attention`, `mlp`; where the norm is adaptive `modulation` with kernel [C, 6, D]:
    shift, scale and gate of the attention, then of the MLP.

    Attributes:
        style: pre-norm or adaptive.
        execution: how it runs.
    """

    style: BlockStyle
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t width"],
        cache: Cache | None = None,
        *,
        drop_path_rate: float | Float[Array, ""] = 0.0,
        train: bool = False,
        mask: Mask | None = None,
        angles: Float[Array, "*b t d"] | None = None,
        condition: Float[Array, "b c"] | None = None,
        at: Int[Array, ""] | Int[Array, " b"] | int | None = None,
    ) -> tuple[Float[Array, "b t width"], Cache | None]:
        """Applies the block."""
        style, execution = self.style, self.execution
        norm = NORMS[style.norm_kind](style.norm_epsilon, execution.dtype, name="norm")
        dropout = functools.partial(nn.Dropout(style.dropout_rate), deterministic=not train)
        parts = [None] * PARTS
        if style.norm == "adaptive":
            made = Modulation(PARTS, x.shape[-1], execution.dtype, name="modulation")(condition)
            parts = [made[:, None, i] for i in range(PARTS)]

        def added(x: Array, branch: Callable[[Array], Array], parts: list[Array | None]) -> Array:
            shift, scale, gate = parts
            y = norm(x)
            y = branch(y if shift is None else y * (1 + scale) + shift)
            y = y if gate is None else y * gate
            return x + (drop_path(y, drop_path_rate, self.make_rng("drop_path")) if drops(drop_path_rate, train) else y)

        def attend(y: Array) -> Array:
            nonlocal cache
            attention = MultiHeadAttention(style, execution, name="attention")
            y, cache = attention(y, None, cache, train=train, mask=mask, angles=angles, at=at)
            return dropout(y)

        x = added(x, attend, parts[:3])
        x = added(x, functools.partial(mlp_of(style, execution, "mlp"), train=train), parts[3:])
        return x, cache
