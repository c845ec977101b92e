"""Adversarial losses in float64 by hand, and the gradients that stand in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.nn.discriminator import PatchDiscriminator
from vit_jax.nn.gan_loss import adaptive_weight, discriminator_loss, generator_loss, gradient_penalty
from vit_jax.nn.init_shapes import init_shapes

REAL, FAKE = np.random.default_rng(0).normal(0, 2, (2, 4, 3, 3))


def test_losses():
    softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
    hinge = 0.5 * (np.maximum(0, 1 - REAL).mean() + np.maximum(0, 1 + FAKE).mean())
    for kind, generator, discriminator in (
        ("hinge", -FAKE.mean(), hinge),
        ("non_saturating", softplus(-FAKE).mean(), softplus(-REAL).mean() + softplus(FAKE).mean()),
    ):
        np.testing.assert_allclose(generator_loss(kind, jnp.float32(FAKE)), generator, rtol=1e-5)
        np.testing.assert_allclose(
            discriminator_loss(kind, jnp.float32(REAL), jnp.float32(FAKE)), discriminator, rtol=1e-5
        )


def test_the_penalty_of_a_known_gradient():
    """The score x A x / 2 + b x has the gradient A x + b."""
    rng = np.random.default_rng(1)
    a, b, x = rng.normal(size=(6, 6)), rng.normal(size=6), rng.normal(size=(5, 2, 3))
    a = a + a.T

    def score(x):
        x = x.reshape(len(x), -1)
        return jnp.stack([(x @ jnp.float32(a) * x).sum(1) / 2, x @ jnp.float32(b)], 1)  # two patches

    expected = np.square(x.reshape(5, 6) @ a + b).sum(1).mean()
    np.testing.assert_allclose(jax.jit(lambda x: gradient_penalty(score, x))(jnp.float32(x)), expected, rtol=1e-5)


def test_the_adaptive_weight_and_its_bounds():
    first, second = np.random.default_rng(2).normal(size=(2, 3, 3, 4, 3))
    expected = np.linalg.norm(first) / (np.linalg.norm(second) + 1e-4)
    np.testing.assert_allclose(adaptive_weight(jnp.float32(first), jnp.float32(second)), expected, rtol=1e-5)
    assert adaptive_weight(jnp.ones(4) * 100, jnp.zeros(4)) == 1e4 and adaptive_weight(jnp.zeros(4), jnp.ones(4)) == 0
    assert not jax.grad(lambda x: adaptive_weight(x, jnp.ones(3)))(jnp.ones(3)).any()


def test_the_discriminators_shapes_and_start():
    images = np.zeros((2, 64, 64, 3), np.float32)
    model = PatchDiscriminator()
    variables = init_shapes(model.init, jax.random.key(0), images)
    # pix2pix's discriminator of 70x70 patches without its second image: by hand from its layers.
    convs = 4 * 4 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == convs + 2 * (128 + 256 + 512)
    assert jax.eval_shape(lambda v, x: model.apply(v, x), variables, images).shape == (2, 6, 6)
    small = PatchDiscriminator(16, 1, norm="none")
    params = jax.jit(small.init)(jax.random.key(0), images[:, :8, :8])["params"]
    assert abs(float(params["conv_1"]["kernel"].std()) - 0.02) < 0.002 and "batch_stats" not in variables["params"]
    with pytest.raises(UserError, match="too small for a discriminator of 3 layers. It needs 24 pixels"):
        init_shapes(model.init, jax.random.key(0), images[:, :16, :16])
