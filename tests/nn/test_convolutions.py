"""Convolutions in groups and transposed ones: one result whichever way they are run, and PyTorch's padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.commands import board
from vit_jax.nn.conv import Conv, ConvTranspose, chosen_implementation, convolve
from vit_jax.nn.platform import computing_on


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_gradients(x, kernel, **arguments):
    weights = drawn(*jax.eval_shape(lambda: convolve(x, kernel, **arguments)).shape, seed=2)

    def loss(x, kernel):
        out = convolve(x, kernel, **arguments)
        return (out * weights).sum(), out

    gradients, out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, kernel)
    return out, *gradients


CASES = {
    "depthwise": ((2, 9, 7, 6), (5, 5, 1, 6), 1, 2),
    "stride": ((3, 8, 9, 4), (3, 3, 1, 4), 2, 1),
    "no padding": ((1, 6, 6, 4), (3, 3, 1, 4), 1, 0),
    "groups": ((2, 5, 4, 12), (1, 1, 3, 8), 1, 0),
    "dense": ((2, 5, 4, 12), (1, 1, 12, 5), 1, 0),
    "multiplied": ((2, 5, 4, 3), (3, 3, 1, 6), 1, 1),
    "wide groups": ((2, 5, 4, 8), (3, 3, 4, 6), 2, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_products_and_convolution_are_equal_and_their_gradients(name):
    shape, filters, stride, pad = CASES[name]
    arguments = {"stride": stride, "pads": [(pad, pad)] * 2}
    pair = [
        with_gradients(drawn(*shape), drawn(*filters, seed=1), **arguments, implementation=one)
        for one in ("products", "convolution")
    ]
    for ours, xla in zip(*pair, strict=True):
        np.testing.assert_allclose(ours, xla, atol=4e-6 * np.abs(xla).max())


def test_a_filter_sees_what_pytorch_shows_it():
    """At a stride of 2 the first window is half outside; Flax's SAME would begin one pixel later."""
    x, conv = drawn(1, 8, 8, 2), Conv(3, 3, 2)
    variables = conv.init(jax.random.key(0), x)
    out = conv.apply(variables, x)
    padded, kernel = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), np.asarray(variables["params"]["kernel"])
    by_hand = [
        [np.einsum("hwc,hwco->o", padded[0, i : i + 3, j : j + 3], kernel) for j in range(0, 8, 2)]
        for i in range(0, 8, 2)
    ]
    np.testing.assert_allclose(out[0], by_hand, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more"), [(2, 2, 0, 0), (4, 2, 1, 0), (3, 2, 1, 1), (3, 1, 0, 0)]
)
def test_transposed_is_the_gradient_of_a_convolution(kernel, stride, padding, more):
    x, module = drawn(2, 4, 5, 3), ConvTranspose(6, kernel, stride, True, padding, more)
    variables = module.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: drawn(*leaf.shape, seed=3), variables)
    ours = module.apply(variables, x)
    size = [(n - 1) * stride - 2 * padding + kernel + more for n in (4, 5)]

    def forward(image):
        return convolve(image, variables["params"]["kernel"], stride=stride, pads=[(padding, padding)] * 2)

    [gradient] = jax.vjp(forward, np.zeros((2, *size, 6), np.float32))[1](x)
    np.testing.assert_allclose(ours, gradient + variables["params"]["bias"], atol=1e-5)
    other = module.clone(implementation="convolution").apply(variables, x)
    np.testing.assert_allclose(ours, other, atol=1e-5)


def convolutions(platform, **arguments):
    with computing_on(platform):
        program = jax.make_jaxpr(lambda x: Conv(6, **arguments).init_with_output(jax.random.key(0), x)[0])
        return str(program(drawn(1, 4, 4, 6))).count("conv_general_dilated[")


def test_what_is_chosen_follows_the_platform():
    for platform, count in (("cpu", 0), ("gpu", 1), ("tpu", 1)):
        assert convolutions(platform, kernel_size=5, groups=6) == count
        assert convolutions(platform, kernel_size=1, groups=2) == count
    assert convolutions("cpu", kernel_size=3) == 1  # XLA's own are as good there
    assert convolutions("gpu", kernel_size=5, groups=6, implementation="products") == 0


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradient_of_a_depthwise_convolution_keeps_little_of_each_place(stride):
    """Also of a single image."""
    x, kernel = jax.ShapeDtypeStruct((1, 32, 32, 16), "float32"), jax.ShapeDtypeStruct((3, 3, 1, 16), "float32")

    def loss(kernel, x):
        return convolve(x, kernel, stride=stride, pads=[(1, 1)] * 2, implementation="products").sum()

    compiled = board.compiled(jax.jit(jax.grad(loss)).lower(kernel, x))
    assert compiled.memory_analysis().temp_size_in_bytes < 9 / 2 * 4 * x.size / stride**2 + 4 * x.size


def test_half_precision_sums_its_gradient_in_float32():
    x, kernel = jnp.ones((8, 16, 16, 2), jnp.bfloat16), jnp.ones((3, 3, 1, 2), jnp.bfloat16)
    *_, gradient = with_gradients(x, kernel, pads=[(1, 1)] * 2)
    exact = with_gradients(x.astype(jnp.float32), kernel.astype(jnp.float32), pads=[(1, 1)] * 2)[2]
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(np.float32), exact, rtol=5e-2, atol=1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="of 6 channels to 4 cannot take 4 at a time. The groups must divide both"):
        convolve(drawn(1, 4, 4, 6), drawn(1, 1, 4, 4))
    with pytest.raises(UserError, match="Unknown conv_implementation 'product'. Did you mean 'products'"):
        chosen_implementation("product")
