"""Swin: published sizes, sizes that no window divides, scan, errors; the numbers are in tests/parity."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.errors import UserError
from vit_jax.models.swin import SwinStage, build
from vit_jax.nn.batch_axis import batch_split_like
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.parameter_count import parameter_count

KEY = jax.random.key(0, impl="rbg")
TINY = {"width": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 2}
L = {"window_size": 12}


# Counts and multiply-adds of timm 1.0.31, head included, at 224 or 384 pixels with 1000 classes.
@pytest.mark.parametrize(
    ("variant", "kwargs", "size", "count", "gmacs"),
    [
        ("T", {}, 224, 28_288_354, 4.49),
        pytest.param("S", {}, 224, 49_606_258, 8.74, marks=pytest.mark.long),
        pytest.param("B", {}, 224, 87_768_224, 15.43, marks=pytest.mark.long),
        pytest.param("B", L, 384, 87_903_584, 47.08, marks=pytest.mark.long),
        pytest.param("L", {}, 224, 196_532_476, 34.48, marks=pytest.mark.long),
        ("l", L, 384, 196_735_516, 103.92),
    ],
)
def test_published_sizes(variant, kwargs, size, count, gmacs):
    model = build(variant, num_classes=1000, **kwargs)
    assert parameter_count(model, size) == count
    head = model.encoder.width * 8 * 1000
    assert round((model.flops((size, size)) / 2 + head) / 1e9, 2) == gmacs


def drawn(model, size, seed=0):
    shapes = init_shapes(model.init, KEY, jnp.zeros((1, *size, 3)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def images(*size, batch=2):
    return np.random.default_rng(1).normal(size=(batch, *size, 3)).astype(np.float32)


@pytest.mark.long
def test_the_order_of_padding_matters_only_where_something_is_padded():
    orders = [build(num_classes=3, pad_order=order, **TINY) for order in ("pad_then_shift", "shift_then_pad")]
    params = drawn(orders[0], (32, 32))
    tokens = lambda model, *size: jax.jit(model.apply)(params, images(*size))["tokens"]  # noqa: E731
    np.testing.assert_array_equal(*(tokens(model, 32, 32) for model in orders))
    first, second = (tokens(model, 27, 37) for model in orders)  # 14x19 places, then 7x10
    assert first.shape == (2, 70, 16)
    assert np.abs(first - second).max() > 0.05 * np.abs(first).max()


@pytest.mark.long
def test_scan_and_remat_equal_the_loop():
    """A scan runs the stages one after the other, each as a scan over its pairs."""
    plain, other = (
        build(num_classes=3, **{**TINY, "depths": [2, 4]}, **e) for e in ({}, {"scan": True, "remat": "full"})
    )
    params = drawn(plain, (16, 32))
    x = images(16, 32)

    def gradient(model):
        return jax.jit(jax.grad(lambda p: (model.apply(p, x)["logits"] ** 2).sum()))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 1e-6),
        gradient(other), gradient(plain),
    )  # fmt: skip


@pytest.mark.long
def test_eight_devices_keep_their_windows():
    """Gradients are those of one device, and windows stay with their images: gradients alone are summed over devices."""
    model = build(num_classes=3, **{**TINY, "depths": [2, 1]})
    params, x = drawn(model, (16, 16)), images(16, 16, batch=16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

    def loss(params, x):
        with batch_split_like(split):
            return (model.apply(params, x)["logits"] ** 2).mean()

    alone = jax.jit(jax.grad(lambda p, x: (model.apply(p, x)["logits"] ** 2).mean()))(params, x)
    step = jax.jit(jax.grad(loss), in_shardings=(whole, split), out_shardings=whole).lower(params, x).compile()
    assert not re.findall(r"all-gather|all-to-all|collective-permute", step.as_text())
    together = step(jax.device_put(params, whole), jax.device_put(x, split))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 1e-6), together, alone
    )  # fmt: skip


def test_layers_name_every_parameter_of_the_trunk_once():
    model = build(num_classes=3, **TINY)
    params = init_shapes(model.init, KEY, jnp.zeros((1, 32, 32, 3)))["params"]["encoder"]
    names = {
        jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree_util.tree_leaves_with_path(params)
    }
    layers = model.encoder.layers()
    owners = {name: [i for i, layer in enumerate(layers) if name.startswith(layer)] for name in names}
    assert {name for name, found in owners.items() if not found} == {"norm/bias", "norm/scale"}
    assert all(len(found) < 2 for found in owners.values())
    assert owners["stage_1/downsample/reduction/kernel"] == owners["stage_1/block_00/norm1/scale"] == [3]


def test_stochastic_depth_grows_over_all_stages():
    model = build(num_classes=0, drop_path_rate=0.3, **TINY)
    stages = []
    noted = lambda *args, **kwargs: stages.append(args[2]) or SwinStage(*args, **kwargs)  # noqa: E731
    encoder = model.encoder.clone(stage=noted)
    init_shapes(encoder.init, KEY, jnp.zeros((1, 32, 32, 3)))
    np.testing.assert_allclose(stages, [(0, 0.1), (0.2, 0.3)])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"variant": "X"}, r"no Swin 'X'"),
        ({"num_heads": [3, 4]}, "width of 8 in stage 0 does not divide into 3 heads"),
        ({"window_size": [4]}, "window_size names 1 windows for 2 stages"),
        ({"num_heads": [2]}, "2 depths for 1 stages"),
        ({"depths": [2, 3], "scan": True}, "Stage 1 has 3 blocks, and a scan"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
        ({"window": 4}, "window_size"),
        ({"pad_order": "pad"}, "pad_order is 'pad'"),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(UserError, match=message):
        build(num_classes=3, **TINY | kwargs)


def test_images_that_are_too_small_are_one_sentence():
    model = build(num_classes=3, **TINY | {"window_size": 7})
    with pytest.raises(UserError, match=r"image of 3x40 pixels is smaller than the 4 pixels"):
        init_shapes(model.init, KEY, images(3, 40))
    with pytest.raises(UserError, match=r"window of 7x7 places is larger than an image of 12x40 pixels.*6x20"):
        init_shapes(model.init, KEY, images(12, 40))
    allowed = build(num_classes=3, shrink_window=True, **TINY | {"window_size": 7})
    params = init_shapes(allowed.init, KEY, images(12, 40))["params"]["encoder"]
    tables = [params[f"stage_{i}"]["block_00"]["relative_position_bias_table"].shape for i in (0, 1)]
    assert tables == [(11 * 11, 2), (5 * 5, 4)]
    with pytest.raises(UserError, match=r"map of 28x40 places has windows of 7x7, but .* windows of 6x6"):
        jax.eval_shape(allowed.apply, {"params": {"encoder": params}}, images(56, 80))
