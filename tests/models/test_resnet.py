"""ResNets: published sizes, stems, the global batch's statistics, and errors; the forward pass is tested in parity/."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import UserError, naming
from vit_jax.models.resnet import build
from vit_jax.nn.init_shapes import init_shapes

TINY = {"variant": "50", "depths": [1, 1], "width": 8, "num_classes": 3}


def count(**kwargs):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = init_shapes(build(**kwargs).init, jax.random.key(0), image)["params"]
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)), params


@pytest.mark.parametrize(
    ("variant", "expected"), [("18", 11_689_512), ("34", 21_797_672), ("50", 25_557_032), ("101", 44_549_160)]
)
def test_published_sizes(variant, expected):
    assert count(variant=variant, num_classes=1000)[0] == expected


def test_a_network_of_twice_the_width():
    total, params = count(variant="50", num_classes=0, width=128)
    assert round(total / 1e6) == 94 and set(params) == {"encoder"}  # SimCLR, table 6: 94 million


@pytest.mark.long
@pytest.mark.parametrize(("stem", "places"), [("imagenet", 4), ("cifar", 16)])
def test_stems_and_outputs(stem, places):
    model = naming.build_named("model", {"name": "resnet", **TINY, "stem": stem}, "config.model")
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    outputs = jax.jit(model.apply)(variables, images)
    assert outputs["tokens"].shape == (2, places**2, 64)
    np.testing.assert_allclose(outputs["features"], outputs["tokens"].mean(1), rtol=1e-5)
    assert outputs["logits"].shape == (2, 3) and not outputs["logits"].any()
    assert set(variables["batch_stats"]) == {"encoder"} and "bias" not in variables["params"]["encoder"]["conv1"]


@pytest.mark.long
def test_units_start_as_their_shortcuts():
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    for zero_init, same in ((True, True), (False, False)):
        short, long = (build("50", num_classes=0, depths=d, width=8, zero_init=zero_init) for d in ([1], [3]))
        variables = jax.jit(long.init)(jax.random.key(0), images)
        features = [jax.jit(m.apply)(variables, images)["features"] for m in (short, long)]
        assert np.allclose(*features, rtol=1e-6) is same


def test_bfloat16_keeps_parameters_statistics_and_features_in_float32():
    model = build(**{**TINY, "depths": [1]}, dtype="bfloat16", stem="cifar")
    images = np.zeros((2, 4, 4, 3), np.float32)
    variables = init_shapes(model.init, jax.random.key(0), images)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(variables))
    run = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    outputs, state = jax.eval_shape(run, variables, images)
    assert outputs["features"].dtype == np.float32 and outputs["tokens"].dtype == jnp.bfloat16
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state))


@pytest.mark.long
def test_statistics_are_those_of_the_global_batch():
    """Eight devices with two rows each find the means and variances of all sixteen rows, and the same gradients."""
    model = build(**{**TINY, "depths": [1]}, stem="cifar")
    images = np.random.default_rng(0).normal(size=(16, 4, 4, 3)).astype(np.float32)
    images *= np.arange(1, 17)[:, None, None, None]  # the rows of one device are unlike those of another
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def loss(params, images):
        outputs, state = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.square(outputs["features"]).mean(), state

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    one, eight = step(variables["params"], images), step(variables["params"], spread)
    chex.assert_trees_all_close(eight, one, rtol=2e-4, atol=1e-5)
    first = eight[0][1]["batch_stats"]["encoder"]["norm1"]
    kernel = variables["params"]["encoder"]["conv1"]["kernel"]
    x = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(first["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first["var"], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)
    local = 0.9 + 0.1 * x[:2].var((0, 1, 2))
    assert (np.abs(np.asarray(first["var"]) - local) > 1).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "51"}, "no ResNet named '51'. Did you mean '50'"),
        ({"stem": "cifra"}, "Did you mean 'cifar'"),
        ({"dtype": "float8"}, "cannot compute in 'float8'"),
        ({"depths": []}, "depths"),
    ],
)
def test_bad_values_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        build(**{**TINY, **wrong})


def test_batch_norm_over_one_example():
    model, image = build(**TINY), np.zeros((1, 16, 16, 3), np.float32)
    variables = init_shapes(model.init, jax.random.key(0), image)
    with pytest.raises(UserError, match="Batch normalisation over one example"):
        jax.eval_shape(lambda v: model.apply(v, image, train=True, mutable=["batch_stats"]), variables)
