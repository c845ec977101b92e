"""Maps of several strides made one; against the authors' own neck and head in tests/parity."""

import jax
import numpy as np
import pytest

from tests.drawn import drawn
from vit_jax import UserError
from vit_jax.nn.map_fusion import MapFusion
from vit_jax.nn.resize import cubic_weights

RNG = np.random.default_rng(0)
MAPS = {2**i: np.float32(RNG.normal(size=(2, 24 // 2 ** (i - 2), 16 // 2 ** (i - 2), 4 * i))) for i in (2, 3, 4)}


def test_every_map_counts_at_the_size_of_the_finest():
    fusion = MapFusion((16, 8), width=6, depth=0)
    variables = drawn(fusion.init, jax.random.key(0), MAPS)
    found = jax.jit(fusion.apply)(variables, MAPS)
    params = variables["params"]
    assert set(params) == {"input_16", "input_8"}
    expected = 0
    for stride in (16, 8):
        x = (
            np.einsum("bhwc,cd->bhwd", MAPS[stride], params[f"input_{stride}"]["conv"]["kernel"][0, 0])
            / (1 + fusion.style.norm_epsilon) ** 0.5
        )
        rows, columns = (cubic_weights(old, new, False) for old, new in zip(x.shape[1:3], (12, 8), strict=True))
        expected = expected + np.einsum("yh,xw,bhwd->byxd", rows, columns, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def trained(fusion, variables):
    return jax.jit(lambda v: fusion.apply(v, MAPS, train=True, mutable=["batch_stats"]))(variables)


@pytest.mark.long
def test_blocks_are_residual_and_the_size_may_be_fixed():
    fusion = MapFusion((8, 4), width=8, depth=2, block="mb", expand_ratio=2, size=(5, 5))
    variables = jax.jit(fusion.init)(jax.random.key(0), MAPS)
    found, changed = trained(fusion, variables)
    assert found.shape == (2, 5, 5, 8)
    # At first a block adds nothing, see `MobileStyle.zero_init`.
    bare = MapFusion((8, 4), width=8, depth=0, size=(5, 5))
    inputs = {kind: {k: v for k, v in tree.items() if "input" in k} for kind, tree in variables.items()}
    np.testing.assert_allclose(found, trained(bare, inputs)[0], atol=1e-6)
    assert set(changed["batch_stats"]) == {"input_8", "input_4", "block_00", "block_01"}
    shapes = {stride: x.shape[1:] for stride, x in MAPS.items()}
    block = 25 * (8 * 16 + 9 * 16 + 16 * 8)
    assert fusion.flops(shapes) == 2 * (12 * 8 * 12 * 8 + 24 * 16 * 8 * 8 + 2 * block)


def test_a_trunk_without_the_map():
    with pytest.raises(UserError, match="no map at a stride of 32 pixels but at 4, 8, 16"):
        MapFusion((32, 8), width=8, depth=1).init(jax.random.key(0), MAPS)
