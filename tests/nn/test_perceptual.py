"""Distances of feature maps; LPIPS with VGG is compared in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.drawn import drawn
from vit_jax.models.vgg import build
from vit_jax.nn.lpips_weights import lpips_weights
from vit_jax.nn.perceptual import map_distance, seen_by, unit_channels


def test_the_weights_are_those_of_vgg_16():
    weights = lpips_weights()
    assert {stride: len(each) for stride, each in weights.items()} == {1: 64, 2: 128, 4: 256, 8: 512, 16: 512}
    assert all((each > 0).all() and each.dtype == np.float32 for each in weights.values())
    np.testing.assert_allclose(weights[1].sum(), 6.925992, rtol=1e-5)


def test_a_distance_by_hand():
    rng = np.random.default_rng(0)
    first, second = ({1: rng.normal(size=(2, 4, 4, 3)), 2: rng.normal(size=(2, 2, 2, 5))} for _ in range(2))
    weights = {1: rng.uniform(size=3), 2: rng.uniform(size=5)}

    def by_hand(weights, times):
        total = 0
        for stride in (1, 2):
            a, b = (x[stride] / np.linalg.norm(x[stride], axis=-1, keepdims=True) for x in (first, second))
            total = total + (np.square(a - b) @ weights[stride]).mean((1, 2))
        return total * times

    maps = [{s: jnp.float32(x) for s, x in each.items()} for each in (first, second)]
    np.testing.assert_allclose(map_distance(*maps, weights), by_hand(weights, 1), rtol=1e-5)
    np.testing.assert_allclose(map_distance(*maps), by_hand({1: np.ones(3), 2: np.ones(5)}, 0.5), rtol=1e-5)
    np.testing.assert_array_equal(map_distance(maps[0], maps[0], weights), 0)


@pytest.mark.long
def test_a_place_of_zeros_has_no_gradient():
    x = jnp.array([[[[0.0, 0.0], [3.0, 4.0]]]])
    np.testing.assert_allclose(unit_channels(x)[0, 0], [[0, 0], [0.6, 0.8]], rtol=1e-6)
    gradient = jax.grad(lambda x: (unit_channels(x) * jnp.array([1.0, 2.0])).sum())(x)
    assert np.isfinite(gradient).all() and not gradient[0, 0, 0].any() and gradient[0, 0, 1].any()


def test_vgg_is_a_trunk_with_maps_before_its_poolings():
    model = build(depths=[1, 2], width=4, hidden=0, num_classes=3)
    images = np.random.default_rng(0).normal(size=(2, 16, 12, 3)).astype(np.float32)
    variables = drawn(model.init, jax.random.key(0), images)
    outputs = jax.jit(lambda v, x: model.apply(v, x, maps=True))(variables, seen_by(images))
    assert {s: m.shape for s, m in outputs["maps"].items()} == {1: (2, 16, 12, 4), 2: (2, 8, 6, 8)}
    assert outputs["tokens"].shape == (2, 12, 8) and outputs["logits"].shape == (2, 3)
    assert [name for layer in model.layers() for name in layer] == [
        "encoder/stage0_conv0", "encoder/stage1_conv0", "encoder/stage1_conv1"
    ]  # fmt: skip
    # By hand: VGG-16's convolutions at 224 pixels are 15.3 billion products and sums, as its paper's successors count.
    assert round(build().encoder.flops((224, 224)) / 2e9, 1) == 15.3
    assert round(build().flops((224, 224)) / 2e9, 2) == round(15.35 + (49 * 512 + 4096) * 4096 / 1e9, 2)
