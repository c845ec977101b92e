"""The order in which the tokens of a grid come one after the other.

The orders with names are those that "Taming transformers for high-resolution image synthesis" (arXiv:2012.09841)
compares in its appendix. An order is the places of a grid, numbered as one reads, in the order of time.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.spelling import nearest

RANDOM = "random"  # another one for every example


def _raster(rows: int, columns: int) -> Int[np.ndarray, "r c"]:
    """When the turn of each place comes, as one reads."""
    return np.arange(rows * columns).reshape(rows, columns)


def _alternate(rows: int, columns: int) -> Int[np.ndarray, "r c"]:
    """Every other row backwards."""
    turns = _raster(rows, columns)
    turns[1::2] = turns[1::2, ::-1]
    return turns


def _spiral_in(rows: int, columns: int) -> Int[np.ndarray, "r c"]:
    """Clockwise along the edge to the middle, from the upper left."""
    left, turns, turn = _raster(rows, columns), np.empty(rows * columns, int), 0
    while left.size:
        turns[left[0]] = np.arange(turn, turn + left.shape[1])
        turn += left.shape[1]
        left = left[1:].T[::-1]
    return turns.reshape(rows, columns)


def _spiral_out(rows: int, columns: int) -> Int[np.ndarray, "r c"]:
    return rows * columns - 1 - _spiral_in(rows, columns)


def _z_curve(rows: int, columns: int) -> Int[np.ndarray, "r c"]:
    """By the bits of row and column in turn (Morton), those of the row first: quarters of quarters."""
    codes = np.zeros((rows, columns), int)
    for bit in range(max(rows, columns).bit_length()):
        codes |= ((np.arange(rows)[:, None] >> bit) & 1) << (2 * bit + 1)
        codes |= ((np.arange(columns)[None] >> bit) & 1) << (2 * bit)
    return np.argsort(np.argsort(codes, axis=None, kind="stable"), kind="stable").reshape(rows, columns)


def _subsample(rows: int, columns: int) -> Int[np.ndarray, "r c"]:
    """First every second place of every second row, then those between: a coarse grid, of which each quarter is again
    taken so."""

    def coarse_first(places: Int[np.ndarray, "r c"]) -> list[int]:
        if places.size <= 1:
            return [int(place) for place in places.ravel()]
        quarters = [places[i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return [place for quarter in quarters for place in coarse_first(quarter)]

    return np.argsort(coarse_first(_raster(rows, columns))).reshape(rows, columns)


_NAMED = {
    "raster": _raster,
    "columns": lambda rows, columns: _raster(columns, rows).T,
    "alternate": _alternate,
    "spiral_in": _spiral_in,
    "spiral_out": _spiral_out,
    "z_curve": _z_curve,
    "subsample": _subsample,
}
ORDERS = (*_NAMED, RANDOM)


def fixed_order(order: str | Sequence[int], grid: tuple[int, int]) -> Int[np.ndarray, " t"]:
    """The places of a grid of (rows, columns) in an order that has a name, or as it is given.

    Args:
        order: one of `ORDERS` but "random", or all places.

    Raises:
        UserError: for an order that there is not, or that leaves a place out.
    """
    rows, columns = grid
    if isinstance(order, str):
        if order not in _NAMED:
            raise UserError(f"There is no order {order!r} of tokens", nearest(order, ORDERS))
        return np.argsort(_NAMED[order](rows, columns), axis=None).astype(np.int32)
    if sorted(order) != list(range(rows * columns)):
        raise UserError(
            f"An order of {len(order)} places does not name each of the {rows * columns} places of the grid once",
            f"Name a permutation of 0 to {rows * columns - 1}",
        )
    return np.asarray(order, np.int32)


def random_orders(keys: PRNGKeyArray, count: int) -> Int[Array, "b t"]:
    """An order of so many places for each key [B]."""
    return jax.vmap(lambda key: jax.random.permutation(key, count))(keys).astype(jnp.int32)
