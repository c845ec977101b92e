"""Ways through a diffusion of a Gaussian, of which all answers are known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.nn.diffusion import Noising, Steps, add_noise, betas, denoise, spaced, step_back, target, variational_term
from vit_jax.nn.diffusion_paths import invert, losses_by_step, slerp, trail

RNG = np.random.default_rng(0)
MEAN, DEVIATION = np.float32([0.3, -0.2, 0.0]), np.float32([0.3, 0.1, 0.25])
X0 = (MEAN + DEVIATION * RNG.normal(size=(5, 3))).astype(np.float32)
FULL = Noising.of(betas("linear"))
TABLE = jnp.asarray(FULL.alphas_cumprod, jnp.float32)


def predict(x, t, kind="epsilon"):
    """The best there is: the noise that is to be expected in x_t, which is linear in it; or the same said as v."""
    a = TABLE[t]
    epsilon = jnp.sqrt(1 - a) * (x - jnp.sqrt(a) * MEAN) / (a * DEVIATION**2 + 1 - a)
    return epsilon if kind == "epsilon" else (epsilon - jnp.sqrt(1 - a) * x) / jnp.sqrt(a)


def there_and_back(count, refinements, kind="epsilon"):
    noising = Noising.of(betas("linear"), spaced(count))
    how = Steps("ddim", kind, "small")
    asked = functools.partial(predict, kind=kind)

    @jax.jit
    def run(x):
        noise = invert(asked, noising, x, kind, refinements)
        return noise, denoise(asked, noising, noise, lambda n: jnp.zeros_like(x), how)

    return [np.asarray(x) for x in run(X0)]


def test_an_image_is_what_its_noise_becomes():
    """To a thousandth at 1,000 steps where each asks again once, to a hundredth where none does."""
    np.testing.assert_allclose(there_and_back(1000, 0)[1], X0, atol=1e-2)
    noise, again = there_and_back(1000, 1)
    np.testing.assert_allclose(again, X0, atol=1e-3)
    # The noise of a Gaussian is its place in it.
    np.testing.assert_allclose(noise, (X0 - MEAN) / DEVIATION, atol=0.05)


def test_a_network_that_says_its_variance_too_is_gone_up_as_well():
    sparse = Noising.of(betas("linear"), spaced(4))
    both = invert(lambda x, t: jnp.concatenate([predict(x, t), jnp.full_like(x, 0.3)], axis=-1), sparse, X0)
    np.testing.assert_allclose(both, invert(predict, sparse, X0), atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_few_steps_are_undone_by_asking_again(kind):
    errors = [np.abs(there_and_back(50, n, kind)[1] - X0).max() for n in (0, 3, 10)]
    assert errors[0] > 5e-3 and errors[1] < errors[0] / 10 and errors[2] < 1e-5


def test_places_on_the_arc_are_as_long_as_its_ends():
    a, b = (RNG.normal(size=(8, 8, 4)).astype(np.float32) for _ in range(2))
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    shares = np.float32([0, 0.25, 0.5, 1])
    found = np.asarray(slerp(a, b, shares))
    np.testing.assert_allclose(found[[0, -1]], [a, b], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.reshape(4, -1), axis=1), np.linalg.norm(a), rtol=1e-5)
    np.testing.assert_allclose(found[2], (a + b) / np.linalg.norm(a + b) * np.linalg.norm(a), atol=1e-5)
    quarter = np.sum(found[1] * a) / np.linalg.norm(a) ** 2
    assert np.arccos(quarter) == pytest.approx(np.arccos(np.sum(a * b) / np.linalg.norm(a) ** 2) / 4, rel=1e-4)
    np.testing.assert_allclose(slerp(a, 2 * a, shares)[2], 1.5 * a, rtol=1e-5)


@pytest.mark.long
def test_a_trail_is_the_way_of_the_sampler():
    sparse = Noising.of(betas("linear"), spaced(4))
    noise = RNG.normal(size=(4, 5, 3)).astype(np.float32)

    def asked(x, t):
        return jnp.concatenate([predict(x, t), jnp.full_like(x, 0.3)], axis=-1)

    for how in (Steps("ddpm", clip=True), Steps("ddim", eta=0.5)):
        found = trail(asked, sparse, noise[0], lambda n: jnp.asarray(noise)[n], how)
        np.testing.assert_array_equal(found.xt[0], noise[0])
        steps = [step_back(sparse, asked(found.xt[i], sparse.timesteps[3 - i]), found.xt[i], noise[i], 3 - i, how)
                 for i in range(4)]  # fmt: skip
        np.testing.assert_allclose([*found.xt[1:], found.end], steps, atol=2e-5)
        np.testing.assert_allclose(found.end, denoise(asked, sparse, noise[0], lambda n: jnp.asarray(noise)[n], how),
                                   atol=2e-5)  # fmt: skip
        # Before the last step of DDIM the image is what is expected.
        if how.kind == "ddim":
            np.testing.assert_allclose(found.x0[-1], found.end, atol=1e-6)
        else:
            assert np.abs(found.x0).max() <= 1


@pytest.mark.long
def test_losses_by_step_of_the_best_network():
    """Error and distortion are a Gaussian's variances; the bound is its terms one by one."""
    a, variance = FULL.alphas_cumprod[:, None], DEVIATION.astype(float) ** 2
    many = np.clip(MEAN + DEVIATION * RNG.normal(size=(2000, 3)), -1, 1).astype(np.float32)
    key, how = jax.random.key(0), Steps(variance="large")

    def noise(step):
        return jax.random.normal(jax.random.fold_in(key, step), many.shape)

    found = jax.jit(lambda x: losses_by_step(predict, FULL, x, noise, how))(many)
    some = [10, 300, 999]
    spread = a * variance + 1 - a
    np.testing.assert_allclose(found.error[jnp.array(some)], (a * variance / spread).mean(1)[some], rtol=0.08)
    wanted = (variance * (1 - a) / spread).mean(1)[some]
    np.testing.assert_allclose(found.distortion[jnp.array(some)], wanted, rtol=0.08)

    @functools.partial(jax.jit, static_argnums=0)
    def bits(step):
        steps = jnp.full(len(many), step)
        xt = add_noise(FULL, many, noise(step), steps)
        x0 = (xt - np.sqrt(1 - a[step]) * predict(xt, step)) / np.sqrt(a[step])
        mean = FULL.posterior_of_x0[step] * x0 + FULL.posterior_of_xt[step] * xt
        logs = np.log(FULL.betas[step] if step else FULL.posterior_variance[1])
        return variational_term(FULL, many, xt, steps, mean, jnp.full(xt.shape, logs, jnp.float32)).mean()

    for step in (0, 300):
        np.testing.assert_allclose(found.bits[step], bits(step), rtol=1e-3)
    last = FULL.alphas_cumprod[-1]
    wanted = 0.5 * (last * np.square(many).mean() - last - np.log(1 - last)) / np.log(2)
    np.testing.assert_allclose(found.prior, wanted, rtol=1e-3)


@pytest.mark.parametrize("kind", ["v", "x0"])
def test_another_prediction_has_the_same_terms(kind):
    """A network that says the same in other words: only what it is scored by differs."""
    sparse = Noising.of(betas("linear"), spaced(10))
    signal, share = np.sqrt(sparse.alphas_cumprod), np.sqrt(1 - sparse.alphas_cumprod)
    noise = jnp.asarray(RNG.normal(size=(10, 5, 3)), jnp.float32)

    def other(x, t):
        at = t // 100
        s, n = jnp.asarray(signal, jnp.float32)[at], jnp.asarray(share, jnp.float32)[at]
        x0 = (x - n * predict(x, t)) / s
        return target(sparse, x0, predict(x, t), jnp.full(len(x), at), kind)

    first = losses_by_step(predict, sparse, X0, lambda n: noise[n], Steps(variance="small"))
    second = losses_by_step(other, sparse, X0, lambda n: noise[n], Steps(prediction=kind, variance="small"))
    np.testing.assert_allclose(second.bits, first.bits, rtol=1e-3)
    np.testing.assert_allclose(second.distortion, first.distortion, rtol=1e-3)
