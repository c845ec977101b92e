"""Weight-standardised convolutions, group norm and the max-pool, against float64 NumPy with loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.nn.bottleneck import ConvStyle, PostActivationUnit, PreActivationBottleneck
from vit_jax.nn.conv import GroupNorm, StdConv, max_pool, pads, standardize_weights

KEY = jax.random.key(0, impl="rbg")


def random(*shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def padded(x, around, value=0.0):
    return np.pad(np.float64(x), [(0, 0), *around, (0, 0)], constant_values=value)


def windows(x, kernel, stride):
    """[b, oh, ow, k, k, c]."""
    rows, columns = ((side - kernel) // stride + 1 for side in x.shape[1:3])
    out = np.zeros((x.shape[0], rows, columns, kernel, kernel, x.shape[3]))
    for i in range(rows):
        for j in range(columns):
            out[:, i, j] = x[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
    return out


def group_norm(x, params, groups, epsilon):
    x = np.float64(x)
    out = np.zeros_like(x)
    size = x.shape[-1] // groups
    for b in range(x.shape[0]):
        for g in range(groups):
            part = x[b, ..., g * size : (g + 1) * size]
            out[b, ..., g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + epsilon)
    return out * params["scale"] + params["bias"]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [
        ((8, 7), 3, 2, "fixed", [(1, 1), (1, 1)]),
        ((8, 7), 3, 2, "same", [(0, 1), (1, 1)]),
        ((224, 5), 7, 2, "fixed", [(3, 3), (3, 3)]),
        ((224, 5), 7, 2, "same", [(2, 3), (3, 3)]),
        ((8, 8), 1, 2, "same", [(0, 0), (0, 0)]),
        ((8, 8), 3, 1, "same", [(1, 1), (1, 1)]),
    ],
)
def test_pads(size, kernel, stride, padding, expected):
    assert pads(size, kernel, stride, padding) == expected
    for side, (before, after) in zip(size, expected, strict=True):
        assert (side + before + after - kernel) // stride + 1 == -(-side // stride)


def test_forms_of_the_epsilon():
    kernel = random(3, 3, 4, 5, scale=0.01) + 0.3
    mean, std = np.float64(kernel).mean((0, 1, 2)), np.float64(kernel).std((0, 1, 2))
    for epsilon in (1e-5, 1e-2):
        inside = standardize_weights(kernel, epsilon, "variance")
        outside = standardize_weights(kernel, epsilon, "deviation")
        np.testing.assert_allclose(inside, (kernel - mean) / np.sqrt(std**2 + epsilon), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outside, (kernel - mean) / (std + epsilon), rtol=1e-4, atol=1e-5)
        assert np.abs(inside - outside).max() > 0.01


@pytest.mark.parametrize("padding", ["fixed", "same"])
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 2), (3, 1), (3, 2), (7, 2)])
def test_convolution(kernel_size, stride, padding):
    x = random(2, 8, 7, 3)
    conv = StdConv(5, kernel_size, stride, padding, epsilon=1e-3)
    kernel = random(kernel_size, kernel_size, 3, 5, seed=1)
    out = conv.apply({"params": {"kernel": kernel}}, x)
    kernel = np.float64(kernel)
    kernel = (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-3)
    patches = windows(padded(x, pads((8, 7), kernel_size, stride, padding)), kernel_size, stride)
    np.testing.assert_allclose(out, np.einsum("bijhwc,hwcd->bijd", patches, kernel), atol=1e-4)


def test_group_norm_far_from_zero():
    x = np.float32(random(2, 5, 4, 12) * np.arange(1, 13) + 1000)
    params = {"scale": random(12, seed=1), "bias": random(12, seed=2)}
    for epsilon in (1e-6, 1.0):
        out = GroupNorm(num_groups=3, epsilon=epsilon).apply({"params": params}, x)
        np.testing.assert_allclose(out, group_norm(x, params, 3, epsilon), atol=2e-3)
    # E[x^2] - E[x]^2 would be off by more than this tolerance.
    group = x[0, ..., :4]
    assert abs((group**2).mean() - group.mean() ** 2 - np.float64(group).var()) > 0.05 * np.float64(group).var() / 10


def test_group_norm_of_bfloat16_has_float32_statistics():
    x = jnp.asarray(random(1, 6, 6, 8) + 8, jnp.bfloat16)
    params = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    out = GroupNorm(num_groups=2, dtype=jnp.bfloat16).apply({"params": params}, x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(out), group_norm(np.float64(x), params, 2, 1e-5), atol=0.02)


@pytest.mark.parametrize("padding", ["fixed", "same"])
def test_max_pool_paddings(padding):
    x = -np.abs(random(2, 7, 6, 3)) - 1
    around = pads((7, 6), 3, 2, padding)
    for pad_with, value in (("zeros", 0.0), ("lowest", -np.inf)):
        out = np.asarray(max_pool(x, padding, pad_with))
        np.testing.assert_array_equal(out, np.float32(windows(padded(x, around, value), 3, 2).max((3, 4))))
        assert (out.max() == 0.0) == (pad_with == "zeros")


@pytest.mark.parametrize("unit", [PreActivationBottleneck, PostActivationUnit])
@pytest.mark.parametrize(("stride", "channels", "projects"), [(1, 16, False), (2, 16, True), (1, 8, True)])
def test_bottlenecks(unit, stride, channels, projects):
    x, style = random(2, 6, 6, channels), ConvStyle(num_groups=2, padding="same", weight_epsilon=1e-3)
    block = unit(width=4, stride=stride, style=style)
    shapes = jax.eval_shape(block.init, KEY, x)["params"]
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda leaf: rng.normal(0.5, 0.5, leaf.shape).astype(np.float32), shapes)
    assert ("proj_conv" in params) == projects
    assert ("proj_norm" in params) == (projects and unit is PostActivationUnit)

    def conv(name, x, stride=1):
        kernel = np.float64(params[name]["kernel"])
        kernel = (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-3)
        size = kernel.shape[0]
        return np.einsum(
            "bijhwc,hwcd->bijd", windows(padded(x, pads(x.shape[1:3], size, stride, "same")), size, stride), kernel
        )

    def norm(name, x):
        return group_norm(x, params[name], 2, 1e-5)

    def relu(x):
        return np.maximum(x, 0)

    shortcut = x
    if unit is PreActivationBottleneck:
        y = relu(norm("norm1", x))
        shortcut = conv("proj_conv", y, stride) if projects else shortcut
        y = relu(norm("norm2", conv("conv1", y)))
        expected = shortcut + conv("conv3", relu(norm("norm3", conv("conv2", y, stride))))
    else:
        shortcut = norm("proj_norm", conv("proj_conv", x, stride)) if projects else shortcut
        y = relu(norm("norm2", conv("conv2", relu(norm("norm1", conv("conv1", x))), stride)))
        expected = relu(shortcut + norm("norm3", conv("conv3", y)))
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, atol=1e-4)


@pytest.mark.long
def test_a_post_activation_unit_starts_as_its_shortcut():
    x = np.abs(random(2, 4, 4, 16))
    out, _ = PostActivationUnit(4, 1, ConvStyle(num_groups=2)).init_with_output(KEY, x)
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pads((4, 4), 3, 1, "fixd"), "padding 'fixd'.*'fixed'"),
        (lambda: standardize_weights(random(1, 1, 2, 2), 1e-5, "varianc"), "'varianc'.*'variance'"),
        (lambda: max_pool(random(1, 4, 4, 1), "same", "zero"), "'zero'.*'zeros'"),
        (lambda: GroupNorm(num_groups=3).init(KEY, random(1, 2, 2, 8)), "8 channels cannot be normalised in 3 groups"),
    ],
)
def test_errors(call, message):
    with pytest.raises(UserError, match=message):
        call()
