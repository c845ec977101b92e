import pytest

from vit_jax.nn.stack import drop_path_rates


def test_drop_path_rates_grow_linearly():
    assert drop_path_rates(0.2, 5) == pytest.approx((0, 0.05, 0.1, 0.15, 0.2))
    assert drop_path_rates(0.2, 1) == (0.0,)
