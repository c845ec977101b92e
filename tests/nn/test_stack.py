import dataclasses

import jax
import numpy as np
import pytest

from tests.drawn import drawn
from vit_jax.errors import UserError
from vit_jax.nn.stack import BlockStack, block_name, drop_path_rates
from vit_jax.nn.style import BlockStyle, Execution


def test_drop_path_rates_grow_linearly():
    assert drop_path_rates(0.2, 5) == pytest.approx((0, 0.05, 0.1, 0.15, 0.2))
    assert drop_path_rates(0.2, 1) == (0.0,)


STYLES = (BlockStyle(2, 16, norm="post"), BlockStyle(2, 16, activation="relu"))


@pytest.mark.long
@pytest.mark.parametrize("scan", [False, True])
def test_what_each_block_gives_is_shown_to_who_asks(scan):
    """In the order of the layers, however they are run; who does not ask gets the same program as before."""
    stack = BlockStack(STYLES, 4, execution=Execution(scan=scan))
    x = jax.random.normal(jax.random.key(0), (2, 3, 8))
    params = drawn(stack.init, jax.random.key(1), x)
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
    out, _, last = jax.jit(lambda p: stack.apply(p, x, last=3))(params)
    np.testing.assert_allclose(last, layers[1:], atol=1e-6)
    np.testing.assert_array_equal(last[-1], out)
    with pytest.raises(UserError, match="no 5 last blocks among 4"):
        stack.apply(params, x, last=5)


@pytest.mark.long
@pytest.mark.parametrize("scan", [False, True])
def test_a_part_of_a_stack_is_its_blocks_with_their_own_rates(scan):
    """Blocks 3 and 4 of six: their names, their styles, their rates."""
    x = jax.random.normal(jax.random.key(0), (16, 3, 8))
    whole = BlockStack(STYLES, 6, 0.5)
    params = drawn(whole.init, jax.random.key(1), x)["params"]
    shown = jax.jit(lambda p: whole.apply({"params": p}, x, mutable=["hidden"])[1]["hidden"]["layers"][0])(params)
    rates = drop_path_rates(0.5, 6)[3:5]
    part = BlockStack(STYLES, 2, rates, Execution(scan=scan), first=3)
    names = {block_name(i): params[block_name(i)] for i in (3, 4)}
    assert set(jax.eval_shape(part.init, jax.random.key(1), x)["params"]) == set(names)
    run = jax.jit(lambda rngs: part.apply({"params": names}, shown[2], train=bool(rngs), rngs=rngs)[0])
    np.testing.assert_allclose(run({}), shown[4], atol=1e-5)
    assert (run({"drop_path": jax.random.key(0)}) != shown[4]).any()
    with pytest.raises(UserError, match="2 rates of stochastic depth for 3 blocks"):
        BlockStack(STYLES, 3, rates)
    with pytest.raises(UserError, match="drop_path_rate is 1.0"):
        BlockStack(STYLES, 1, (1.0,))
