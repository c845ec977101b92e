"""Products with weights, in the shape that the platform multiplies best."""

import math
from typing import Any

import jax
from jaxtyping import Array, Float

from vit_jax.nn.platform import platform

_Dimensions = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


def product(
    lhs: Float[Array, "..."], rhs: Float[Array, "..."], dimension_numbers: _Dimensions, **options: Any
) -> Float[Array, "..."]:
    """`jax.lax.dot_general`, for `nn.Dense(dot_general=product)`; on a CPU a product of two matrices.

    The gradient of a product over more axes contracts batch and tokens at once, for which XLA's CPU compiler first
    transposes one of the operands in memory. Of matrices it contracts the rows as they lie.

    Args:
        lhs: contracted over its last axes.
        rhs: contracted over its first axes.
        dimension_numbers: as `jax.lax.dot_general` takes them.
        options: its other arguments.
    """
    (over, of), batch = dimension_numbers
    free = lhs.ndim - len(over)
    rows_by_columns = tuple(over) == tuple(range(free, lhs.ndim)) and tuple(of) == tuple(range(len(of)))
    if platform() != "cpu" or any(batch) or not rows_by_columns:
        return jax.lax.dot_general(lhs, rhs, dimension_numbers, **options)
    shape = (*lhs.shape[:free], *rhs.shape[len(of) :])
    inner = math.prod(rhs.shape[: len(of)])
    rows, columns = (math.prod(side) for side in (lhs.shape[:free], rhs.shape[len(of) :]))
    matrices = lhs.reshape(rows, inner), rhs.reshape(inner, columns)
    return jax.lax.dot_general(*matrices, (((1,), (0,)), ((), ())), **options).reshape(shape)
