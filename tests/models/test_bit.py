"""BiT: published sizes, names, initial values, precision, errors; the numbers are in tests/parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.models.bit import build, parse_variant
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.parameter_count import parameter_count

KEY = jax.random.key(0, impl="rbg")
TINY = {"stage_sizes": [2, 1], "width": 8, "num_groups": 4}


def random_params(model, images):
    """Large enough everywhere that every part reaches the output; without compiling `init`."""
    rng = np.random.default_rng(3)
    shapes = init_shapes(model.init, KEY, images)["params"]

    def draw(path, leaf):
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(mean, 0.2, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def images(height=32, width=32):
    return np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)


# Counts of the published models, which do not depend on the image's size.
@pytest.mark.parametrize(
    ("variant", "num_classes", "count"),
    [
        ("R50x1", 1000, 25_549_352),
        ("R50x1", 21_843, 68_256_659),
        ("R50x3", 1000, 217_319_080),
        ("R101x1", 1000, 44_541_480),
        ("R101x3", 1000, 387_934_888),
        ("R152x2", 1000, 236_335_208),
        ("R152x4", 1000, 936_533_224),
        ("R152x4", 21_843, 1_107_299_923),
    ],
)
def test_parameter_counts(variant, num_classes, count):
    assert parameter_count(build(variant, num_classes=num_classes), 64) == count


def test_names_and_shapes():
    params = init_shapes(build(num_classes=3, **TINY).init, KEY, images())["params"]
    assert set(params) == {"encoder", "head"}
    units = {"stage1_unit01", "stage1_unit02", "stage2_unit01"}
    assert set(params["encoder"]) == {"root_conv", "norm", *units}
    assert set(params["encoder"]["stage1_unit02"]) == {"norm1", "conv1", "norm2", "conv2", "norm3", "conv3"}
    assert set(params["encoder"]["stage2_unit01"]) - set(params["encoder"]["stage1_unit02"]) == {"proj_conv"}
    params = init_shapes(build(num_classes=0, preactivation=False, **TINY).init, KEY, images())["params"]
    assert set(params) == {"encoder"} and set(params["encoder"]) == {"root_conv", "root_norm", *units}


@pytest.mark.long
def test_outputs():
    model = build(num_classes=3, head_bias_init=-2.0, **TINY)
    out, variables = jax.jit(functools.partial(model.init_with_output, maps=True))(KEY, images(40, 24))
    maps = out.pop("maps")
    assert {stride: leaf.shape for stride, leaf in maps.items()} == {4: (2, 10, 6, 32), 8: (2, 5, 3, 64)}
    np.testing.assert_array_equal(maps[8].reshape(out["tokens"].shape), out["tokens"])
    assert out["tokens"].shape == (2, 5 * 3, 64)
    np.testing.assert_allclose(out["features"], out["tokens"].mean(1), rtol=1e-5)
    # The head starts at zero.
    np.testing.assert_array_equal(out["logits"], np.full((2, 3), -2.0, np.float32))
    assert float(np.abs(out["features"]).max()) > 0.1
    assert "logits" not in jax.eval_shape(build(num_classes=0, **TINY).apply, variables, images())


def test_bfloat16_computes_and_float32_stays():
    model = build(num_classes=3, dtype="bfloat16", **TINY)
    shapes = init_shapes(model.init, KEY, images())
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}
    params = random_params(model, images())
    out = jax.jit(model.apply)({"params": params}, images())
    assert out["tokens"].dtype == jnp.bfloat16 and out["logits"].dtype == out["features"].dtype == jnp.float32
    exact = jax.jit(build(num_classes=3, **TINY).apply)({"params": params}, images())
    error = float(jnp.abs(out["features"] - exact["features"]).max())
    assert 0 < error < 0.05 * float(exact["features"].max())


@pytest.mark.long
def test_every_argument_reaches_the_computation():
    small = {"num_classes": 0, "stage_sizes": [1], "width": 8, "num_groups": 4}
    params = random_params(build(**small), images())

    def run(**change):
        return jax.jit(build(**small | change).apply)({"params": params}, images())["tokens"]

    expected = run()
    for change in (
        {"padding": "same"},
        {"stem_pool_padding": "lowest"},
        {"weight_epsilon": 1e-3},
        {"weight_epsilon": 1e-3, "weight_epsilon_in": "deviation"},
        {"group_norm_epsilon": 1e-2},
        {"num_groups": 2},
    ):
        assert float(jnp.abs(run(**change) - expected).max()) > 1e-4, change


def test_variants():
    assert parse_variant("r152x4") == ((3, 8, 36, 3), 256)
    for wrong in ("R50", "R51x1", "R50x0", "50x1"):
        with pytest.raises(UserError, match=f"There is no BiT '{wrong}'"):
            parse_variant(wrong)
    with pytest.raises(UserError, match="compute in 'float16'"):
        build(num_classes=3, dtype="float16")
