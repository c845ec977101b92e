"""Layers of each kind of attention: what they cost is what they are counted to cost, and they do what they are called."""

import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.nn.flops import products_of
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.platform import computing_on
from vit_jax.planning.mixers import KINDS, LayerSize

SIZE = LayerSize(width=24, heads=3, window=4)
X = jax.ShapeDtypeStruct((2, 12, 16, 24), np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_the_program(kind):
    mixer = KINDS[kind](SIZE)
    variables = init_shapes(mixer.init, jax.random.key(0), X)
    counted = mixer.flops((12, 16))
    assert min(counted) > 0
    # On a CPU depthwise convolutions are sums of shifted maps, which are no products.
    with computing_on("gpu" if kind == "multiscale" else "cpu"):
        assert 2 * sum(counted) == products_of(mixer.apply, variables, X)
    assert jax.eval_shape(mixer.apply, variables, X).shape == X.shape


@pytest.mark.parametrize(("kind", "power"), [(kind, 2.0 if kind == "softmax" else 1.0) for kind in KINDS])
def test_mixing_grows_with_the_tokens(kind, power):
    """Within 0.03 from 1,024 tokens up; with fewer, the sparse windows that are kept are one of four."""
    grids, mixer = (32, 64, 128), KINDS[kind](LayerSize(96, 3))
    counts = [mixer.flops((grid, grid)).mixing for grid in grids]
    assert np.polyfit(np.log([grid**2 for grid in grids]), np.log(counts), 1)[0] == pytest.approx(power, abs=0.03)


def test_sparse_windows_are_those_in_which_something_is():
    x = np.zeros((1, 8, 12, 24), np.float32)
    x[0, 4:, 4:8] = 1.0  # of six windows two are kept
    x[0, :4, 8:] = 0.5
    x[0, 0, 0] = 0.1
    sparse, window = (KINDS[kind](SIZE) for kind in ("sparse", "window"))
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1), init_shapes(sparse.init, jax.random.key(0), x))
    found, dense = (np.asarray(jax.jit(mixer.apply)(variables, x)) for mixer in (sparse, window))
    kept = np.zeros((8, 12), bool)
    kept[4:, 4:8] = kept[:4, 8:] = True
    np.testing.assert_allclose(found[0, kept], dense[0, kept], rtol=1e-5)
    np.testing.assert_array_equal(found[0, ~kept], x[0, ~kept])
    assert np.abs(dense[0, ~kept] - x[0, ~kept]).max() > 0.01


def test_shifted_windows_overlap_with_others():
    def reached(kind):
        mixer = KINDS[kind](SIZE)
        variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1), init_shapes(mixer.init, jax.random.key(0), X))
        x = np.zeros((2, 12, 16, 24), np.float32)
        x[0, 5, 5] = 1.0
        something, nothing = np.asarray(jax.jit(mixer.apply)(variables, x))
        rows, columns = np.nonzero(np.abs(something - nothing).max(axis=-1) > 1e-3)
        return (rows.min(), rows.max()), (columns.min(), columns.max())

    assert reached("window") == ((4, 7), (4, 7)) and reached("shifted") == ((2, 5), (2, 5))


@pytest.mark.parametrize(("width", "heads"), [(97, 3), (0, 1), (8, 0)])
def test_heads_divide_the_width(width, heads):
    with pytest.raises(UserError, match="does not divide into"):
        LayerSize(width, heads)


def test_a_grid_of_too_few_windows():
    with pytest.raises(UserError, match="keeps none of the 1 windows of a grid of 4x4"):
        KINDS["sparse"](SIZE).flops((4, 4))
