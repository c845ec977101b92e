"""Swin v2: published sizes, positions that follow the window, errors; the numbers are in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.models.swin_v2 import ContinuousPositions, build, log_distances
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.parameter_count import parameter_count
from vit_jax.nn.window import relative_bias

KEY = jax.random.key(0, impl="rbg")
TINY = {"width": 8, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4, "patch_size": 2}


# Counts and multiply-adds of timm 1.0.31, head included, at 256 pixels with 1000 classes.
@pytest.mark.parametrize(
    ("variant", "window", "count", "gmacs"),
    [
        ("T", 8, 28_347_154, 5.94),
        ("T", 16, 28_347_154, 6.66),
        pytest.param("S", 8, 49_728_418, None, marks=pytest.mark.long),
        pytest.param("B", 8, 87_918_816, 20.33, marks=pytest.mark.long),
        pytest.param("B", 16, 87_918_816, 21.97, marks=pytest.mark.long),
        pytest.param("L", 16, 196_739_932, None, marks=pytest.mark.long),
    ],
)
def test_published_sizes(variant, window, count, gmacs):
    model = build(variant, num_classes=1000, window_size=window)
    assert parameter_count(model, 256) == count
    if gmacs:
        head = model.encoder.width * 8 * 1000
        assert round((model.flops((256, 256)) / 2 + head) / 1e9, 2) == gmacs


def test_distances_are_logarithmic_and_those_of_the_window_of_pretraining():
    """Swin v2, equation 4, with the authors' factor of 8: the farthest place of the window of pretraining is at 8."""
    table = log_distances((4, 4)).reshape(7, 7, 2)
    np.testing.assert_allclose(table[3, 3], 0)
    np.testing.assert_allclose(table[:, 0, 0], -table[::-1, 0, 0])
    np.testing.assert_allclose(table[6, 4], [np.log2(9) / 3, np.log2(8 / 3 + 1) / 3], rtol=1e-6)
    larger = log_distances((7, 7), pretrained_window=4).reshape(13, 13, 2)
    np.testing.assert_array_equal(larger[3:10, 3:10], table)
    np.testing.assert_allclose(larger[12, 6], [np.log2(17) / 3, 0], rtol=1e-6)
    np.testing.assert_array_equal(log_distances((1, 1)), [[0, 0]])


def test_positions_follow_any_window():
    """The same parameters serve windows of every size; close to a place they say the same in all of them."""
    positions = ContinuousPositions(2)
    shapes = init_shapes(positions.init, KEY, log_distances((3, 3)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)
    assert params["params"]["fc2"]["kernel"].shape == (512, 2)

    def bias(side):
        table = positions.apply(params, log_distances((side, side), pretrained_window=3))
        return np.asarray(relative_bias(table, (side, side)))

    small, large = bias(3), bias(5)
    inside = [row * 5 + column for row in range(1, 4) for column in range(1, 4)]
    np.testing.assert_allclose(large[:, :, inside][:, :, :, inside], small, rtol=1e-4)
    assert small.shape == (1, 2, 9, 9) and (small >= 0).all() and (small <= 16).all()


def test_names_of_its_own():
    model = build(num_classes=3, **TINY)
    params = init_shapes(model.init, KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    block = params["encoder"]["stage_1"]["block_00"]
    assert set(block) == {"attention", "mlp", "norm1", "norm2", "positions"}
    assert set(block["attention"]) == {"query", "key", "value", "out", "norm_scale"}
    assert set(block["attention"]["key"]) == {"kernel"}
    assert params["encoder"]["stage_1"]["downsample"]["norm"]["scale"].shape == (16,)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"variant": "G"}, r"no Swin v2 'G'"),
        ({"pretrained_window": [4]}, "pretrained_window names 1 windows for 2 stages"),
        ({"num_heads": [3, 4]}, "width of 8 in stage 0 does not divide into 3 heads"),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(UserError, match=message):
        build(num_classes=3, **TINY | kwargs)
