"""The convolutional encoder and decoder by themselves; tests/parity has other libraries' beside them."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.nn.autoencoder import Decoder, Encoder
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.unet_blocks import Down, MapStyle, ResidualBlock, SpatialAttention, doubled

RNG = np.random.default_rng(0)
SMALL = {
    "channels": 8,
    "multipliers": (1, 2, 4),
    "num_blocks": 1,
    "attention_levels": (1,),
    "style": MapStyle(groups=4),
}


def redrawn(tree):
    return jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32) / 2, tree)


def count(module, *inputs):
    shapes = init_shapes(module.init, jax.random.key(0), *inputs)["params"]
    return sum(np.prod(x.shape) for x in jax.tree.leaves(shapes))


def test_sizes_of_stable_diffusions_autoencoder():
    images, latents = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 8, 8, 4))
    layout = {"multipliers": (1, 2, 4, 4)}
    assert count(Encoder(8, **layout), images) == 34_163_592
    assert count(Decoder(3, **layout), latents) == 49_490_179


def test_the_decoder_mirrors_the_encoder():
    encoder, decoder = Encoder(6, **SMALL), Decoder(3, **SMALL)
    images = jnp.zeros((2, 16, 24, 3))
    latents, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
    assert latents.shape == (2, 4, 6, 6) and encoder.stride == 4
    assert "attention_0" in variables["params"]["level_1"] and "attention_0" not in variables["params"]["level_0"]
    restored, variables = jax.eval_shape(decoder.init_with_output, jax.random.key(0), latents)
    assert restored.shape == images.shape
    assert sorted(variables["params"]["level_1"]) == ["attention_0", "attention_1", "block_0", "block_1", "up"]


def test_halving_sees_zeros_below_and_at_the_right_alone():
    x = np.ones((1, 4, 4, 1), np.float32)
    kernel = np.ones((3, 3, 1, 1), np.float32)
    params = {"conv": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
    np.testing.assert_array_equal(Down().apply({"params": params}, x)[0, :, :, 0], [[9, 6], [6, 4]])


def test_doubling_repeats():
    x = RNG.normal(size=(2, 3, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(doubled(x), np.repeat(np.repeat(x, 2, 1), 2, 2))


def test_time_is_added_between_the_convolutions():
    """In float64: norm, SiLU, convolution, the time of each image on all places, and again."""
    block, x = ResidualBlock(4, MapStyle(groups=2, epsilon=1e-5)), RNG.normal(size=(2, 3, 3, 6))
    time = RNG.normal(size=(2, 5))
    params = redrawn(jax.eval_shape(block.init, jax.random.key(0), x, time)["params"])
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)

    def silu(v):
        return v / (1 + np.exp(-v))

    def norm(v, of):
        grouped = v.reshape(*v.shape[:3], 2, -1)
        mean, variance = (f(grouped, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
        return ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(v.shape) * of["scale"] + of["bias"]

    def conv(v, of):
        padded = np.pad(v, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.einsum("bhwcij,ijco->bhwo", windows, of["kernel"]) + of["bias"]

    h = conv(silu(norm(x, p["norm1"])), p["conv1"])
    h += (silu(time) @ p["time"]["kernel"] + p["time"]["bias"])[:, None, None]
    h = conv(silu(norm(h, p["norm2"])), p["conv2"])
    expected = h + x @ p["shortcut"]["kernel"][0, 0] + p["shortcut"]["bias"]
    found = jax.jit(block.apply)({"params": params}, x.astype(np.float32), time.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_attention_is_one_head_over_all_places():
    module, x = SpatialAttention(MapStyle(groups=2)), RNG.normal(size=(2, 2, 3, 4)).astype(np.float32)
    params = redrawn(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
    normed = MapStyle(groups=2).norm(None).apply({"params": params["norm"]}, x).reshape(2, 6, 4)
    q, k, v = (normed @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "key", "value"))
    mixed = jax.nn.softmax(q @ k.swapaxes(1, 2) / 2) @ v
    expected = x + (mixed @ params["out"]["kernel"] + params["out"]["bias"]).reshape(x.shape)
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, x), expected, atol=1e-5)


def test_products_on_paper_are_those_of_the_layers():
    """One kernel at a time: its size, times the places that it is applied to; and attention's two products."""
    encoder, size = Encoder(6, **SMALL | {"num_blocks": 2}), (16, 24)
    shapes = init_shapes(encoder.init, jax.random.key(0), jnp.zeros((1, *size, 3)))["params"]
    side = {"conv_in": 1, "level_0": 1, "level_1": 2, "level_2": 4, "middle": 4, "conv_out": 4}
    total = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        names = [key.key for key in path]
        if names[-1] == "kernel":
            stride = side[names[0]] * (2 if "down" in names else 1)
            total += 2 * np.prod(leaf.shape) * np.prod(size) / stride**2
    total += 4 * (2 * 96**2 * 16 + 24**2 * 32)  # level_1 has 8 x 12 places of 16 channels, the middle 4 x 6 of 32
    assert encoder.flops(size) == total
