"""Windows: partition and shift, regions, relative positions, each against what it means place by place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.nn.style import Execution
from vit_jax.nn.window import Windows, region_mask, relative_bias, relative_index, table_rows, windows_on
from vit_jax.nn.window_block import WindowBlock, WindowStyle

# Grids that windows divide, and others; square and oblong windows; shifts of both axes, of one, of none.
LAYOUTS = [
    Windows((8, 12), (4, 4)),
    Windows((8, 12), (4, 4), (2, 2)),
    Windows((7, 10), (4, 4), (2, 2)),
    Windows((7, 10), (4, 4), (2, 2), "shift_then_pad"),
    Windows((3, 9), (3, 4), (0, 2), "shift_then_pad"),
    Windows((5, 5), (5, 5)),
]


@pytest.mark.parametrize("windows", LAYOUTS, ids=str)
def test_split_and_join_are_inverse_and_places_say_where_each_token_is(windows):
    height, width = windows.grid
    x = np.arange(2 * height * width, dtype=np.float32).reshape(2, -1, 1)
    split = np.asarray(windows.split(jnp.asarray(x)))
    assert split.shape == (2 * windows.count, windows.tokens, 1)
    np.testing.assert_array_equal(windows.join(split), x)
    places = windows.places()
    expected = np.where(places < 0, 0, places + np.array([0, height * width]).reshape(2, 1, 1))
    np.testing.assert_array_equal(split.reshape(2, windows.count, -1), expected)
    assert sorted(places[places >= 0]) == list(range(height * width))


@pytest.mark.parametrize("windows", [w for w in LAYOUTS if any(w.shift)], ids=str)
def test_regions_part_what_only_the_shift_brought_together(windows):
    """Two places of a window see each other where they are as far apart in the grid as they are in the window."""
    mask = np.asarray(region_mask(windows.regions()))
    assert mask.dtype == np.float32 and set(np.unique(mask)) == {0.0, -100.0}
    sides = [count * size for count, size in zip(windows.tiles, windows.size, strict=True)]
    rows, columns = ((np.arange(side) + shift) % side for side, shift in zip(sides, windows.shift, strict=True))
    for tile in np.ndindex(windows.tiles):
        inside = [np.arange(t * m, t * m + m) for t, m in zip(tile, windows.size, strict=True)]
        rolled = np.stack(np.meshgrid(*inside, indexing="ij"), -1).reshape(-1, 2)
        before = np.stack([rows[rolled[:, 0]], columns[rolled[:, 1]]], -1)
        neighbours = (rolled[:, None] - rolled[None] == before[:, None] - before[None]).all(-1)
        number = tile[0] * windows.tiles[1] + tile[1]
        np.testing.assert_array_equal(mask[number] == 0, neighbours)


def test_what_is_filled_up_is_rolled_along_or_not():
    """The two orders put the same place into different windows."""
    orders = [Windows((6, 6), (4, 4), (2, 2), order).places() for order in ("pad_then_shift", "shift_then_pad")]
    assert (orders[0] != orders[1]).any()
    assert orders[0][-1][-1] == 7 and orders[1][-1][-1] == -1
    assert orders[0][0][0] == orders[1][0][0] == 14


@pytest.mark.parametrize("size", [(3, 3), (2, 4)])
def test_the_table_has_a_row_for_each_distance(size):
    table = np.random.default_rng(0).normal(size=(table_rows(size), 2)).astype(np.float32)
    by_distance = table.reshape(2 * size[0] - 1, 2 * size[1] - 1, 2)
    bias = relative_bias(jnp.asarray(table), size)
    assert bias.shape == (1, 2, size[0] * size[1], size[0] * size[1])
    assert set(relative_index(size).reshape(-1)) == set(range(table_rows(size)))
    places = list(np.ndindex(size))
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            down, right = query[0] - key[0], query[1] - key[1]
            np.testing.assert_array_equal(bias[0, :, i, j], by_distance[down + size[0] - 1, right + size[1] - 1])


@pytest.mark.parametrize(
    ("grid", "clamp", "size", "shift"),
    [
        ((14, 28), "both", (7, 7), (3, 3)),
        ((7, 28), "both", (7, 7), (0, 0)),
        ((5, 28), "both", (5, 5), (0, 0)),
        ((7, 28), "each", (7, 7), (0, 3)),
        ((5, 28), "each", (5, 7), (0, 3)),
    ],
)
def test_on_a_grid_that_is_not_larger_windows_shrink_and_stay_where_they_are(grid, clamp, size, shift):
    shifted = windows_on(grid, 7, shifted=True, clamp=clamp)
    assert (shifted.size, shifted.shift) == (size, shift)
    assert windows_on(grid, 7, clamp=clamp) == Windows(grid, size)


@pytest.mark.long
def test_gradients_stay_in_the_window_and_two_blocks_reach_its_neighbours():
    """The Jacobian of one block is zero outside the window, of the plain and of the shifted one; of both it is not."""
    grid, key = (8, 8), jax.random.key(0)
    x = jax.random.normal(key, (1, 64, 8))
    blocks = [WindowBlock(WindowStyle(2, 16, window_size=4, shifted=shifted)) for shifted in (False, True)]
    params = [jax.jit(lambda k, b=b: b.init(k, x, grid=grid))(key) for b in blocks]

    @jax.jit
    def reach(x):
        one, two = (lambda x, b=b, p=p: b.apply(p, x, grid=grid)[0] for b, p in zip(blocks, params, strict=True))
        runs = (one, two, lambda x: two(one(x)))
        return [jnp.abs(jax.jacobian(lambda x, run=run: run(x)[0].sum(-1))(x))[:, 0].sum(-1) > 0 for run in runs]

    plain, shifted, both = map(np.asarray, reach(x))
    rows, columns = np.divmod(np.arange(64), 8)
    for found, moved in ((plain, 0), (shifted, 2)):
        tile = np.stack([(rows + moved) // 4, (columns + moved) // 4])
        np.testing.assert_array_equal(found, (tile[:, :, None] == tile[:, None]).all(0))
    np.testing.assert_array_equal(both, shifted.astype(int) @ plain.astype(int) > 0)
    assert both[27].all() and not both[0].all()  # from the middle to every corner, from a corner not


@pytest.mark.long
def test_sown_weights_are_those_that_were_used():
    style, x = WindowStyle(2, 16, window_size=2, shifted=True), jax.random.normal(jax.random.key(0), (2, 16, 8))
    block = WindowBlock(style, Execution(sow_attention=True))
    params = jax.jit(lambda k: block.init(k, x, grid=(4, 4)))(jax.random.key(1))["params"]
    run = jax.jit(lambda p, x: block.apply({"params": p}, x, grid=(4, 4), mutable=["intermediates"]))
    (weights,) = run(params, x)[1]["intermediates"]["attention"]["attention_weights"]
    assert weights.shape == (2 * 4, 2, 4, 4)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    # In the last window every place came from another region: each sees itself alone.
    np.testing.assert_array_equal(weights[3], np.broadcast_to(np.eye(4, dtype=np.float32), (2, 4, 4)))
    table = params["relative_position_bias_table"]
    changed = run({**params, "relative_position_bias_table": table.at[4].add(1.0)}, x)[1]  # 4: no distance
    (other,) = changed["intermediates"]["attention"]["attention_weights"]
    diagonal = np.diagonal(weights[0], axis1=-2, axis2=-1)
    expected = diagonal * np.e / (1 + diagonal * (np.e - 1))
    np.testing.assert_allclose(np.diagonal(other[0], axis1=-2, axis2=-1), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "needs to know the grid"),
        ({"grid": (4, 4), "mask": "causal"}, "takes no cache, mask, bias or angles"),
        ({"grid": (2, 8)}, r"A map of 2x8 places has windows of 2x2, but .* windows of 3x3"),
    ],
)
def test_what_does_not_fit_is_one_sentence(call, message):
    block, x = WindowBlock(WindowStyle(2, 16, window_size=3)), jnp.zeros((1, 16, 8))
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), x, grid=(4, 4)))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda p: block.apply(p, x, **call), params)


def test_unknown_choices_are_user_errors():
    for wrong in ({"pad_order": "pad"}, {"clamp": "none"}):
        with pytest.raises(UserError, match="Unknown"):
            WindowStyle(2, 16, **wrong)
