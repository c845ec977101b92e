"""The U-Net by itself: sizes, what is refused, what it reads; tests/parity has diffusers' beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.models import conditional_unet
from vit_jax.models.unet import build
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.unet_blocks import Down, MapStyle, ResidualBlock, resampled

RNG = np.random.default_rng(0)
SMALL = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "norm_groups": 4}


def shapes(model, size):
    return init_shapes(model.init, jax.random.key(0), *example_inputs(model, size))["params"]


LDM = {"channels": 224, "multipliers": (1, 2, 3, 4), "attention_levels": (1, 2, 3), "head_width": 32, "time": "adm"}


@pytest.mark.long
def test_sizes_are_the_papers():
    for model, size, count in (
        (build(), 32, 35_746_307),
        (build(multipliers=(1, 1, 2, 2, 4, 4), attention_levels=(4,)), 256, 113_673_219),
        (build(**LDM, symmetric=True, epsilon=1e-5), 64, 274_056_163),
    ):
        assert sum(np.prod(x.shape) for x in jax.tree.leaves(shapes(model, (size, size)))) == count
        assert model.flops((size, size)) == pytest.approx({32: 12.4e9, 256: 497e9, 64: 202e9}[size], rel=0.01)


@pytest.mark.long
def test_time_class_and_dropout_are_read():
    model = build(**SMALL, num_classes=3, dropout_rate=0.5, modulates=True, residual_resample=True, head_width=4)
    drawn = jax.tree.map(lambda x: RNG.normal(0, 0.3, x.shape).astype(np.float32), shapes(model, (4, 6)))
    x = RNG.normal(size=(2, 4, 6, 3)).astype(np.float32)

    @jax.jit
    def call(times, labels):
        return model.apply({"params": drawn}, x, times, labels)

    def apart(a, b):
        return np.abs(a - b).max(axis=(1, 2, 3)) > 1e-3

    first = call(jnp.array([0, 5]), jnp.array([0, 1]))
    assert first.shape == (2, 4, 6, 3)
    assert apart(first, call(jnp.array([0, 6]), jnp.array([0, 1]))).tolist() == [False, True]
    assert apart(first, call(jnp.array([0, 5]), jnp.array([2, 1]))).tolist() == [True, False]
    drop = jax.jit(lambda t: model.apply({"params": drawn}, x, t, t, train=True, rngs={"dropout": jax.random.key(0)}))
    dropped = drop(jnp.array([0, 1]))
    assert apart(call(jnp.array([0, 1]), jnp.array([0, 1])), dropped).all()


def test_whatever_ends_a_path_is_zero_at_first():
    models = (build(**SMALL, residual_resample=True), conditional_unet.build(**SMALL, heads=2, attention_levels=(0,)))
    for model, ends in zip(models, (("conv2", "out", "conv_out"), ("conv2", "proj_out", "conv_out")), strict=True):

        @jax.jit
        def initial(rng):  # of these alone: what is not returned is not compiled
            leaves = jax.tree.leaves_with_path(model.init(rng, *example_inputs(model, (4, 4)))["params"])  # noqa: B023
            return {end: [x for path, x in leaves if [k.key for k in path[-2:]] == [end, "kernel"]] for end in ends}  # noqa: B023

        for end, kernels in initial(jax.random.key(0)).items():
            assert kernels and not any(np.any(x) for x in kernels), end


def test_sides_change_within_a_block_as_around_it():
    x = RNG.normal(size=(1, 4, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(resampled(x, "down")[0, 0, 1], x[0, :2, 2:4].mean((0, 1)), rtol=1e-6)
    np.testing.assert_array_equal(resampled(x, "up"), x.repeat(2, 1).repeat(2, 2))
    block = ResidualBlock(4, MapStyle(groups=2), resample="down", zero_last=True)
    found, _ = block.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(found, resampled(x, "down"), rtol=1e-6)


def test_zeros_on_all_sides_where_they_are_asked_for():
    params = {"conv": {"kernel": np.ones((3, 3, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}}
    found = Down(symmetric=True).apply({"params": params}, np.ones((1, 4, 4, 1), np.float32))
    np.testing.assert_array_equal(found[0, :, :, 0], [[4, 6], [6, 9]])


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="cannot halve 5x4"):
        shapes(build(**SMALL), (4, 5))
    with pytest.raises(UserError, match="no level 2"):
        build(**SMALL, attention_levels=(2,))
    with pytest.raises(UserError, match="6 channels cannot"):
        build(channels=6, norm_groups=4)
    with pytest.raises(UserError, match="16 channels do not divide into heads of 3"):
        shapes(build(**SMALL, head_width=3), (4, 4))
    with pytest.raises(UserError, match="one of 3 classes, and was given none"):
        init_shapes(build(**SMALL, num_classes=3).init, jax.random.key(0), np.zeros((1, 4, 4, 3)), np.zeros(1))
