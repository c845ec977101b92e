"""Operations counted on paper are those of the programs, and nearly what XLA counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from vit_jax.nn.flops import (
    aggregation_flops,
    block_flops,
    linear_mixing_flops,
    mixing_flops,
    products_of,
    window_mixing_flops,
    windows_of,
)

HEADS, HEAD_DIM = 3, 32


def softmax(q, k, v):
    """Over all axes but heads and features: [windows, tokens, heads, features]."""
    return jnp.einsum("whts,wshd->wthd", jax.nn.softmax(jnp.einsum("wthd,wshd->whts", q, k)), v)


def linear(q, k, v):
    ones = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    out = jnp.einsum("wthd,whde->wthe", jax.nn.relu(q), jnp.einsum("wshd,wshe->whde", jax.nn.relu(k), ones))
    return out[..., :-1] / out[..., -1:]


def aggregation(x, depthwise, pointwise):
    def conv(x, kernel, groups):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    return conv(conv(x, depthwise, x.shape[-1]), pointwise, 3 * HEADS)


def shapes(*sizes):
    return [jax.ShapeDtypeStruct(size, np.float32) for size in sizes]


CHANNELS = 3 * HEADS * HEAD_DIM
WINDOWED = [(12, 49, HEADS, HEAD_DIM)] * 3  # a grid of 20x28 in windows of 7x7
CASES = {
    "softmax": (softmax, [(1, 256, HEADS, HEAD_DIM)] * 3, mixing_flops(256, 256, HEADS * HEAD_DIM), 0.06),
    "window": (softmax, WINDOWED, window_mixing_flops(windows_of((20, 28), (7, 7)), (7, 7), HEADS * HEAD_DIM), 0.06),
    "linear": (linear, [(1, 256, HEADS, HEAD_DIM)] * 3, linear_mixing_flops(256, HEADS, HEAD_DIM), 0.03),
    "aggregation": (
        aggregation,
        [(1, 16, 16, CHANNELS), (5, 5, 1, CHANNELS), (1, 1, HEAD_DIM, CHANNELS)],
        aggregation_flops(256, CHANNELS, 3 * HEADS, 5),
        0.2,  # XLA leaves out what falls on the padding
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_counts_are_those_of_the_program_and_nearly_those_of_xla(name):
    """XLA counts the softmax's and the normaliser's own arithmetic too, and no products with padding."""
    run, sizes, expected, within = CASES[name]
    inputs = shapes(*sizes)
    assert products_of(run, *inputs) == expected
    assert jax.jit(run).lower(*inputs).cost_analysis()["flops"] == pytest.approx(expected, rel=within)


def test_loops_and_branches_are_counted_as_they_run():
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, w), None), x, length=5)[0]

    def either(x, w):
        return jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)

    once = 2 * 3 * 4 * 4
    assert products_of(loop, *shapes((3, 4), (4, 4))) == 5 * once
    assert products_of(either, *shapes((3, 4), (4, 4))) == 2 * once

    # What a kernel has is written for one of its places, and says nothing of all.
    def kernel(x, w, out):
        out[...] = x[...] @ w[...]

    def in_kernel(x, w):
        return pallas.pallas_call(kernel, jax.ShapeDtypeStruct((3, 4), x.dtype), interpret=True)(x, w) @ w

    assert products_of(in_kernel, *shapes((3, 4), (4, 4))) == once
    # Of a gradient there is what its arguments need: of a product, with respect to one side, one product more.
    assert products_of(jax.value_and_grad(lambda x, w: loop(x, w).sum()), *shapes((3, 4), (4, 4))) == 10 * once


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_costs_as_much_on_the_way_back(stride):
    """With respect to its kernel, and to its map: the zeros between the rows of a strided one are no products."""

    def loss(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jnp.square(
            jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=numbers)
        ).sum()

    forward = 2 * (8 // stride) ** 2 * 6 * 3 * 3 * 4
    given = shapes((1, 8, 8, 4), (3, 3, 4, 6))
    assert products_of(loss, *given) == forward
    assert products_of(jax.value_and_grad(loss), *given) == 2 * forward
    assert products_of(jax.value_and_grad(loss, argnums=(0, 1)), *given) == 3 * forward


def test_growth_with_tokens():
    """Softmax with the square of the tokens, so with the fourth power of the resolution; the others with the tokens."""
    grids = (16, 32, 64, 128)
    tokens = np.log([grid**2 for grid in grids])
    counts = {
        "softmax": [mixing_flops(grid**2, grid**2, 96) for grid in grids],
        "window": [window_mixing_flops(windows_of((grid, grid), (8, 8)), (8, 8), 96) for grid in grids],
        "linear": [linear_mixing_flops(grid**2, 3, 32) for grid in grids],
    }
    slopes = {name: np.polyfit(tokens, np.log(found), 1)[0] for name, found in counts.items()}
    assert slopes == pytest.approx({"softmax": 2.0, "window": 1.0, "linear": 1.0})


def test_few_tokens_take_the_quadratic_form():
    """EfficientViT computes (Q K^T) V where a map has no more places than a head has features."""
    assert linear_mixing_flops(32, HEADS, 32) == HEADS * mixing_flops(32, 32, 32)
    assert linear_mixing_flops(33, HEADS, 32) == 4 * 33 * HEADS * 32 * 33
    assert linear_mixing_flops(16, HEADS, 32) < 4 * 16 * HEADS * 32 * 33


def test_a_block_has_its_attention():
    assert block_flops(50, 64, 256) == 2 * 50 * 64 * 4 * 64 + mixing_flops(50, 50, 64) + 2 * 50 * 64 * 2 * 256
