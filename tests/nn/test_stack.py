import dataclasses

import jax
import numpy as np
import pytest

from vit_jax.nn.stack import BlockStack, block_name, drop_path_rates
from vit_jax.nn.style import BlockStyle, Execution


def test_drop_path_rates_grow_linearly():
    assert drop_path_rates(0.2, 5) == pytest.approx((0, 0.05, 0.1, 0.15, 0.2))
    assert drop_path_rates(0.2, 1) == (0.0,)


STYLES = (BlockStyle(2, 16, norm="post"), BlockStyle(2, 16, activation="relu"))


@pytest.mark.parametrize("scan", [False, True])
def test_what_each_block_gives_is_shown_to_who_asks(scan):
    """In the order of the layers, however they are run; who does not ask gets the same program as before."""
    stack = BlockStack(STYLES, 4, execution=Execution(scan=scan))
    x = jax.random.normal(jax.random.key(0), (2, 3, 8))
    params = jax.jit(stack.init)(jax.random.key(1), x)
    assert set(params) == {"params"}
    (out, _), shown = jax.jit(lambda p: stack.apply(p, x, mutable=["hidden"]))(params)
    (layers,) = shown["hidden"]["layers"]
    assert layers.shape == (4, 2, 3, 8)
    np.testing.assert_array_equal(layers[-1], out)
    for depth in (1, 2):
        first = {"params": {block_name(i): params["params"][block_name(i)] for i in range(depth)}}
        less = BlockStack(STYLES, depth, execution=dataclasses.replace(stack.execution, scan=False))
        np.testing.assert_allclose(layers[depth - 1], jax.jit(less.apply)(first, x)[0], atol=1e-5)
    assert jax.eval_shape(lambda p: stack.apply(p, x, mutable=["batch_stats"]), params)[1] == {}
