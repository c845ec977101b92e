"""Decomposed relative positions against the bias written out, in blocks of queries and whole; blocks over maps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.nn import decomposed_attention as module
from vit_jax.nn.attention import attention
from vit_jax.nn.block import mlp_of
from vit_jax.nn.decomposed_attention import DecomposedAttention, decomposed_attention, rows_at_once
from vit_jax.nn.grid_block import GridBlock, GridStyle
from vit_jax.nn.multi_head import MultiHeadAttention
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.posemb import fitted_positions
from vit_jax.nn.stack import BlockStack
from vit_jax.nn.style import BlockStyle, Execution

GRID, HEADS, WIDTH = (6, 4), 2, 3


@pytest.fixture(scope="module")
def inputs():
    rng, tokens = np.random.default_rng(0), GRID[0] * GRID[1]
    q, k, v = rng.normal(size=(3, 2, tokens, HEADS, WIDTH)).astype(np.float32)
    tables = [rng.normal(size=(2 * side - 1, WIDTH)).astype(np.float32) for side in GRID]
    return q, k, v, *tables


def written_out(q, k, v, rows, columns):
    """Place by place."""
    places = list(np.ndindex(GRID))
    vectors = np.zeros((len(places), len(places), WIDTH), np.float32)
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            down, right = query[0] - key[0], query[1] - key[1]
            vectors[i, j] = rows[down + GRID[0] - 1] + columns[right + GRID[1] - 1]
    bias = np.einsum("bihd,ijd->bhij", q, vectors)
    logits = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(WIDTH) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhij,bjhd->bihd", weights, v)


@pytest.mark.parametrize("rows", [6, 2, 1])
def test_the_bias_is_that_of_two_distances_however_many_queries_are_at_a_time(inputs, rows, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", rows * GRID[1] * GRID[0] * GRID[1])
    assert rows_at_once(GRID) == rows
    run = jax.jit(lambda *inputs: decomposed_attention(*inputs, GRID))
    np.testing.assert_allclose(run(*inputs), written_out(*inputs), atol=1e-5)


def test_gradients_and_memory_do_not_hold_the_weights_of_all_queries(monkeypatch):
    """In blocks the same gradients, and neither way keeps an array of all queries and keys."""
    grid, rng = (32, 8), np.random.default_rng(0)
    tokens = grid[0] * grid[1]
    q, k, v = rng.normal(size=(3, 1, tokens, 1, 4)).astype(np.float32)
    tables = [rng.normal(size=(2 * side - 1, 4)).astype(np.float32) for side in grid]

    def loss(*inputs):
        return jnp.sin(decomposed_attention(*inputs, grid)).sum()

    found, temporaries = [], []
    for at_once in (tokens**2, tokens**2 // 32):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
        compiled = jax.jit(jax.grad(loss, range(5))).lower(q, k, v, *tables).compile()
        found.append(compiled(q, k, v, *tables))
        temporaries.append(compiled.memory_analysis().temp_size_in_bytes)
    for whole, blocks in zip(*found, strict=True):
        np.testing.assert_allclose(whole, blocks, atol=1e-4)
    matrix = tokens**2 * 4
    assert temporaries[0] > matrix > temporaries[1]


def test_weights_are_those_of_all_queries(inputs):
    _, _, v, *_ = inputs
    out, weights = decomposed_attention(*inputs, GRID, return_weights=True)
    assert weights.shape == (2, HEADS, 24, 24)
    np.testing.assert_allclose(np.einsum("bhij,bjhd->bihd", weights, v), out, atol=1e-5)


def test_tables_follow_another_grid_as_the_authors_interpolate_them():
    table = np.arange(7, dtype=np.float32)[:, None]
    assert fitted_positions("a/rel_pos_rows", table, (7, 2)) is None
    found = fitted_positions("a/rel_pos_columns", table, (3, 1))
    np.testing.assert_allclose(found[:, 0], [2 / 3, 3, 16 / 3], atol=1e-6)


def drawn(shapes):
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(2)
    return jax.tree.unflatten(tree, [0.3 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def random_block(style, grid, width=8):
    block = GridBlock(style)
    x = np.random.default_rng(1).normal(size=(2, grid[0] * grid[1], width)).astype(np.float32)
    return block, drawn(jax.eval_shape(lambda: block.init(jax.random.key(0), x, grid=grid))), x


def test_a_window_sees_itself_and_zeros_that_it_is_filled_up_with_behind_the_norm():
    """A map of 3x5 in windows of 4 is two of them, filled up to 4x8."""
    block, params, x = random_block(GridStyle(num_heads=2, mlp_dim=12, window_size=4), (3, 5))
    params = params["params"]

    @jax.jit
    def by_hand(x):
        y = LayerNorm().apply({"params": params["norm1"]}, x).reshape(2, 3, 5, 8)
        y = jnp.pad(y, [(0, 0), (0, 1), (0, 3), (0, 0)])
        layer, attended = DecomposedAttention(block.style, grid=(4, 4)), []
        for half in (y[:, :, :4], y[:, :, 4:]):
            out, _ = layer.apply({"params": params["attention"]}, half.reshape(2, 16, 8), train=False)
            attended.append(out.reshape(2, 4, 4, 8))
        x = x + jnp.concatenate(attended, axis=2)[:, :3, :5].reshape(x.shape)
        y = LayerNorm().apply({"params": params["norm2"]}, x)
        return x + mlp_of(block.style, block.execution, None).apply({"params": params["mlp"]}, y, train=False)

    found = jax.jit(lambda x: block.apply({"params": params}, x, grid=(3, 5))[0])(x)
    np.testing.assert_allclose(found, by_hand(x), atol=1e-5)


@pytest.mark.long
def test_windows_and_global_blocks_take_turns_in_a_stack_as_loop_and_scan():
    window = GridStyle(num_heads=2, mlp_dim=8, window_size=2)
    styles = (window, dataclasses.replace(window, window_size=None))
    stacks = [BlockStack(styles, 4, execution=Execution(scan=scan), block=GridBlock) for scan in (False, True)]
    x = np.random.default_rng(0).normal(size=(1, 12, 8)).astype(np.float32)
    variables = drawn(jax.eval_shape(lambda: stacks[0].init(jax.random.key(0), x, grid=(3, 4))))
    tables = [variables["params"][f"block_{i:02d}"]["attention"]["rel_pos_rows"].shape[0] for i in range(4)]
    assert tables == [3, 5, 3, 5]
    loop, scan = (jax.jit(lambda v, s=s: s.apply(v, x, grid=(3, 4))[0])(variables) for s in stacks)
    np.testing.assert_allclose(loop, scan, atol=1e-5)


def test_what_a_block_over_a_map_cannot_do_is_refused():
    style = GridStyle(num_heads=2, mlp_dim=8)
    block, params, x = random_block(style, (3, 4))
    with pytest.raises(UserError, match="needs to know the grid"):
        block.apply(params, x)
    with pytest.raises(UserError, match="takes no cache"):
        block.apply(params, x, grid=(3, 4), mask="causal")
    with pytest.raises(UserError, match="4 rows where .* of 3. Use images"):
        block.apply(params, x, grid=(4, 3))


def test_values_may_be_made_of_something_else_than_keys():
    """Positions are added to queries and keys alone."""
    style = BlockStyle(num_heads=2, mlp_dim=0)
    layer, rng = MultiHeadAttention(style), np.random.default_rng(0)
    x, memory, positions = (rng.normal(size=(2, n, 8)).astype(np.float32) for n in (3, 5, 5))
    params = layer.init(jax.random.key(0), x, memory, train=False)
    found, _ = layer.apply(params, x, memory + positions, train=False, values=memory)
    q, k, v = (
        np.einsum("btw,whd->bthd", of, params["params"][name]["kernel"])
        for name, of in (("query", x), ("key", memory + positions), ("value", memory))
    )
    out = np.einsum("bthd,hdw->btw", attention(q, k, v), params["params"]["out"]["kernel"])
    np.testing.assert_allclose(found, out, atol=1e-5)
    assert not np.allclose(found, layer.apply(params, x, memory + positions, train=False)[0], atol=1e-3)
