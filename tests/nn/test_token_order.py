"""Orders of the tokens of a grid, drawn by hand."""

import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.nn.token_order import ORDERS, fixed_order, random_orders

TURNS = {  # when each place's turn comes
    "raster": [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]],
    "columns": [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]],
    "alternate": [[0, 1, 2, 3], [7, 6, 5, 4], [8, 9, 10, 11], [15, 14, 13, 12]],
    "spiral_in": [[0, 1, 2, 3], [11, 12, 13, 4], [10, 15, 14, 5], [9, 8, 7, 6]],
    "spiral_out": [[15, 14, 13, 12], [4, 3, 2, 11], [5, 0, 1, 10], [6, 7, 8, 9]],
    "z_curve": [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]],
    "subsample": [[0, 4, 1, 5], [8, 12, 9, 13], [2, 6, 3, 7], [10, 14, 11, 15]],
}


@pytest.mark.parametrize("name", TURNS)
def test_an_order_by_its_name(name):
    turns = np.argsort(fixed_order(name, (4, 4))).reshape(4, 4)
    assert turns.tolist() == TURNS[name]
    for grid in ((3, 5), (1, 1), (2, 7)):
        assert sorted(fixed_order(name, grid)) == list(range(grid[0] * grid[1]))


def test_an_order_of_ones_own():
    assert TURNS.keys() == set(ORDERS) - {"random"}
    assert fixed_order([2, 0, 3, 1], (2, 2)).tolist() == [2, 0, 3, 1]
    with pytest.raises(UserError, match="does not name each of the 4 places"):
        fixed_order([0, 1, 2, 2], (2, 2))
    with pytest.raises(UserError, match="no order 'rastr'.*raster"):
        fixed_order("rastr", (2, 2))


def test_random_orders_are_of_each_key_alone():
    keys = jax.random.split(jax.random.key(0), 3)
    found = random_orders(keys, 9)
    assert (np.sort(found, axis=1) == np.arange(9)).all() and (found[0] != found[1]).any()
    np.testing.assert_array_equal(random_orders(keys[1:2], 9)[0], found[1])
