"""DALL-E: what its blocks see, by hand and by Jacobians, and a cache that changes nothing."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import dalle
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.sparse_stream import StreamBlock, StreamStyle
from vit_jax.nn.style import Execution

L, GRID, VI, VT = 3, (4, 4), 7, 6
SIZE = {"width": 16, "num_heads": 2, "reach": 1}


def small(depth=6, **kwargs):
    return dalle.build(image_vocab=VI, text_vocab=VT, text_length=L, grid=GRID, depth=depth, **SIZE, **kwargs)


def drawn(model):
    rng = np.random.default_rng(1)
    shapes = init_shapes(model.init, jax.random.key(0), *model.example_inputs(None))["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32), shapes)


def inputs(rows=3):
    rng = np.random.default_rng(0)
    text, tokens = rng.integers(0, VT, (rows, L)), rng.integers(0, VI, (rows, 16))
    return text, np.arange(L) < rng.integers(0, L + 1, (rows, 1)), tokens


def sees(pattern, place, other):
    """Figure 11 of the paper, in words."""
    (row, column), (other_row, other_column) = divmod(place, 4), divmod(other, 4)
    if other > place:
        return False
    return {
        "full": True,
        "row": place - other <= 4,  # to the same column of the row before
        "column": column == other_column,
        "conv": row - other_row <= 1 and abs(column - other_column) <= 1,
    }[pattern]


@pytest.mark.parametrize("pattern", ["full", "row", "column", "conv"])
def test_what_a_block_sees(pattern):
    """Its Jacobian."""
    style = StreamStyle(num_heads=2, mlp_dim=8, pattern=pattern, before=L + 1, columns=4, reach=1)
    block, rng = StreamBlock(style, Execution()), np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, L + 16, 4)), jnp.float32)
    shapes = init_shapes(block.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    seen = np.abs(jax.jit(jax.jacobian(lambda x: block.apply(params, x)[0][0]))(x)).max((1, 2, 4)) > 0
    for query in range(L + 16):
        for key in range(L + 16):
            before = key <= query and key < L + 1
            wanted = before or (key > L and sees(pattern, query - L - 1, key - L - 1))
            assert seen[query, key] == wanted, (query, key)


def test_the_patterns_of_the_paper():
    """Blocks from 1 to 63: column where (i - 2) mod 4 is 0, row otherwise; the last one a square."""
    patterns = [dalle.pattern_of(i - 1, 64) for i in range(1, 65)]
    assert patterns[:-1] == ["column" if (i - 2) % 4 == 0 else "row" for i in range(1, 64)] and patterns[-1] == "conv"
    for depth in range(1, 10):
        used = [
            (i, patterns[i % len(patterns)])
            for first, count, patterns in dalle.parts_of(depth)
            for i in range(first, first + count)
        ]
        assert used == [(i, dalle.pattern_of(i, depth)) for i in range(depth)]


@pytest.mark.long
def test_a_cache_changes_nothing():
    model = small(depth=5)
    params, (text, mask, tokens) = drawn(model), inputs()
    whole = jax.jit(model.apply)({"params": params}, text, mask, tokens)
    assert whole["text_logits"].shape == (3, L, VT + L) and whole["image_logits"].shape == (3, 16, VI)

    def beginning(text, mask):
        ids = model.apply({"params": params}, text, mask, method="beginning")
        return model.apply({"params": params}, ids, model.new_cache(3), 0, method="further")

    @jax.jit
    def step(ids, at, cache):
        x, cache = model.apply({"params": params}, ids, cache, at, method="further")
        return model.apply({"params": params}, x[:, -1], method="logits"), cache

    found, cache = jax.jit(beginning)(text, mask)
    assert sum(leaf.nbytes for leaf in cache) == 2 * 5 * 3 * (L + 16) * 16 * 4
    first = model.apply({"params": params}, found[:, -1], method="logits")
    np.testing.assert_allclose(first, whole["image_logits"][:, 0], atol=1e-5)
    for i in range(15):
        at = jnp.full(3, L + 1 + i) if i > 12 else jnp.int32(L + 1 + i)
        logits, cache = step(tokens[:, i : i + 1], at, cache)
        np.testing.assert_allclose(logits, whole["image_logits"][:, i + 1], atol=1e-5)


@pytest.mark.long
def test_a_scan_changes_nothing():
    model = small(depth=9)
    params, given = drawn(model), inputs()
    scanned = model.clone(execution=dataclasses.replace(model.execution, scan=True))
    ours, theirs = (jax.jit(m.apply)({"params": params}, *given)["image_logits"] for m in (model, scanned))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_padding_is_a_token_of_its_place():
    model = small(depth=1)
    params, (text, mask, tokens) = drawn(model), inputs()
    padded = model.apply({"params": params}, text, mask, method="padded")
    np.testing.assert_array_equal(padded, np.where(mask, text, VT + np.arange(L)))
    other = np.where(mask, text, (text + 1) % VT)
    run = jax.jit(model.apply)
    ours, theirs = (run({"params": params}, t, mask, tokens)["image_logits"] for t in (text, other))
    np.testing.assert_array_equal(ours, theirs)


def test_the_papers_size_has_twelve_billion_parameters():
    model = dalle.build(image_vocab=8192, text_vocab=16384, text_length=256, grid=(32, 32))
    shapes = init_shapes(model.init, jax.random.key(0), *model.example_inputs(None))["params"]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    blocks = 64 * (12 * 3968**2 + 13 * 3968)
    tables = (8192 + 16384 + 256 + 1 + 257 + 64) * 3968 + (8192 + 16384 + 256) * 3968
    assert count == blocks + tables + 2 * 3968
    assert round(count / 1e9) == 12
