"""Floating point operations counted on paper: compilers count a scanned block once and fusions twice.

Matrix products and convolutions are counted, a multiplication and an addition as two. Training takes three times as
many as one pass forward.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr


def product_flops(rows: int, inputs: int, outputs: int) -> float:
    """Of `rows` vectors times one matrix."""
    return 2.0 * rows * inputs * outputs


def mixing_flops(queries: int, keys: int, width: int) -> float:
    """Of softmax attention between projections: the scores, and the values that they weigh; all heads together."""
    return 4.0 * queries * keys * width


def windows_of(grid: tuple[int, int], window: tuple[int, int]) -> int:
    """How many windows cover a grid, of which the last may reach over the edge."""
    return math.prod(-(-side // edge) for side, edge in zip(grid, window, strict=True))


def window_mixing_flops(windows: int, window: tuple[int, int], width: int) -> float:
    """`mixing_flops` where each token sees those of its own window; shifting windows costs none.

    Args:
        windows: see `windows_of`; of sparse windows those that are kept.
        window: rows and columns of one.
        width: of all heads together.
    """
    tokens = math.prod(window)
    return windows * mixing_flops(tokens, tokens, width)


def linear_mixing_flops(tokens: int, heads: int, head_dim: int) -> float:
    """Of linear attention between projections, Q (K^T V) with a row of ones that counts the weights; of the quadratic
    form (Q K^T) V where there are no more tokens than features of a head, as it is computed then."""
    if tokens <= head_dim:
        return heads * mixing_flops(tokens, tokens, head_dim)
    return 4.0 * tokens * heads * head_dim * (head_dim + 1)


def aggregation_flops(tokens: int, channels: int, groups: int, kernel_size: int) -> float:
    """Of a depthwise convolution and a grouped 1x1 convolution after it, which mixes neighbours into each token before
    multi-scale linear attention."""
    return product_flops(tokens, kernel_size**2, channels) + product_flops(tokens, channels // groups, channels)


def block_flops(tokens: int, width: int, mlp_dim: int, mlp_matrices: int = 2) -> float:
    """Of a Transformer block with self-attention and as many matrices in its MLP; a gated one has three."""
    attention = product_flops(tokens, width, 4 * width) + mixing_flops(tokens, tokens, width)
    return attention + product_flops(tokens, width, mlp_matrices * mlp_dim)


def forward_flops(model: Any, image_size: tuple[int, int]) -> float | None:
    """One image forward through a model that counts itself (`flops(image_size)`); None for another."""
    return model.flops(image_size) if hasattr(model, "flops") else None


def products_of(function: Callable[..., Any], *arguments: Any) -> float:
    """Of all matrix products and convolutions of a function, counted where they are written: a loop's in each turn,
    of branches the dearest; a loop of unknown length counts once, and what kernels of their own do not at all.

    Args:
        arguments: arrays, or their shapes.
    """
    return _products(jax.make_jaxpr(function)(*arguments).jaxpr)


def _products(jaxpr: Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            kernel, places = equation.invars[1].aval, params["dimension_numbers"].rhs_spec
            # Of a strided one's gradient most products would be with the zeros that stand between its rows.
            zeros = math.prod(params["lhs_dilation"])
            total += 2.0 * equation.outvars[0].aval.size * (kernel.size // kernel.shape[places[0]]) / zeros
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        elif name == "cond":
            total += max(_products(branch.jaxpr) for branch in params["branches"])
        elif name != "pallas_call":
            inner = (getattr(value, "jaxpr", value) for value in params.values())
            turns = params["length"] if name == "scan" else 1
            total += turns * sum(_products(each) for each in inner if hasattr(each, "eqns"))
    return total
