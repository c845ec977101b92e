import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.shared_golden import Golden
from vit_jax.errors import UserError
from vit_jax.nn.diffusion import (
    Noising,
    Steps,
    add_noise,
    betas,
    denoise,
    guided,
    log_variance,
    losses,
    posterior_mean,
    predicted,
    respaced,
    spaced,
    step_back,
    target,
)
from vit_jax.nn.diffusion_paths import trail

RNG = np.random.default_rng(0)
FULL = Noising.of(betas("linear"))
X0, NOISE, OUTPUT = (RNG.normal(size=(4, 3, 5)).astype(np.float32) for _ in range(3))
STEP = np.array([0, 1, 500, 999])


def alphas(step):
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[step].reshape(-1, 1, 1)


def test_schedules_are_those_of_the_papers():
    np.testing.assert_allclose(betas("linear")[[0, 999]], [1e-4, 0.02])
    scaled = betas("scaled_linear", first=0.00085, last=0.012)
    np.testing.assert_allclose(np.sqrt(scaled[500]), (np.sqrt(0.00085) * 499 + np.sqrt(0.012) * 500) / 999)
    # With the square that the notes' print lacks the last alpha-bar is a thousandth of what it is without.
    assert Noising.of(betas("cosine")).alphas_cumprod[-1] == pytest.approx(2.43e-9, rel=1e-2)
    with pytest.raises(UserError, match="schedule of the noise 'cosin'"):
        betas("cosin")


@pytest.mark.parametrize("name", ["train", "sample", "sampler"])
def test_tables_are_the_authors(name):
    golden = Golden("mar")
    steps = {"train": None, "sample": respaced(10), "sampler": golden["table/sampler_timestep_map"]}[name]
    noising = Noising.of(betas("cosine"), steps)
    np.testing.assert_allclose(noising.betas, golden[f"table/{name}_betas"], rtol=1e-12)
    # The authors respace by quotients of quotients.
    logs = golden[f"table/{name}_posterior_log_variance_clipped"]
    np.testing.assert_allclose(noising.posterior_log_variance, logs, rtol=1e-10)
    if name != "sampler":
        np.testing.assert_allclose(noising.alphas_cumprod, golden[f"table/{name}_alphas_cumprod"], rtol=1e-9)


def test_respaced_steps_are_the_authors():
    golden = Golden("mar")
    for count in (4, 8, 25, 100):
        np.testing.assert_array_equal(respaced(count), golden[f"table/timestep_map_{count}"])
    np.testing.assert_array_equal(respaced(1000), np.arange(1000))
    assert respaced(1).tolist() == [0]
    for count in (0, 1001):
        with pytest.raises(UserError, match=f"There are no {count} steps among 1000"):
            respaced(count)


@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
def test_what_a_network_should_say_gives_back_image_and_noise(kind):
    step = np.array([0, 1, 300, 600])
    xt = add_noise(FULL, X0, NOISE, step)
    np.testing.assert_allclose(xt, np.sqrt(alphas(step)) * X0 + np.sqrt(1 - alphas(step)) * NOISE, atol=1e-6)
    x0, noise = predicted(FULL, target(FULL, X0, NOISE, step, kind), xt, step, kind)
    np.testing.assert_allclose(x0, X0, atol=2e-4)
    np.testing.assert_allclose(noise, NOISE, atol=1e-4)


def test_a_step_back_is_algorithm_2_of_the_paper():
    """x = (x_t - beta / sqrt(1 - alpha-bar) eps) / sqrt(1 - beta) + sigma z."""
    step, beta = 500, np.linspace(1e-4, 0.02, 1000)[500]
    for variance in ("small", "large"):
        sigma2 = beta if variance == "large" else beta * (1 - alphas(499)) / (1 - alphas(500))
        wanted = (X0 - beta / np.sqrt(1 - alphas(500)) * OUTPUT) / np.sqrt(1 - beta) + np.sqrt(sigma2) * NOISE
        found = step_back(FULL, OUTPUT, X0, NOISE, step, Steps(variance=variance))
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    cold = step_back(FULL, OUTPUT, X0, NOISE, step, Steps(variance="large", temperature=0.5))
    np.testing.assert_allclose(found - cold, np.sqrt(beta) * 0.5 * NOISE, atol=1e-6)
    first = [step_back(FULL, OUTPUT, X0, noise, 0, Steps(variance="small")) for noise in (NOISE, 0 * NOISE)]
    np.testing.assert_array_equal(*first)


def test_learned_variance_goes_from_the_posterior_to_beta():
    for share, kind in ((-1, "small"), (1, "large")):
        learned = log_variance(FULL, STEP[1:], "learned_range", jnp.full((3, 2), share, jnp.float32))
        np.testing.assert_allclose(learned, jnp.broadcast_to(log_variance(FULL, STEP[1:], kind, like=learned), (3, 2)))


def test_implicit_steps():
    """DDIM, equation 12; with eta 1 its noise is the posterior's, with eta 0 there is none."""
    sparse = Noising.of(betas("linear"), np.array([0, 400, 800]))
    ddim = Steps("ddim", variance="small")
    a, before = alphas(800), alphas(400)
    x0 = (X0 - np.sqrt(1 - a) * OUTPUT) / np.sqrt(a)
    for eta in (0.0, 1.0):
        deviation = eta * np.sqrt((1 - before) / (1 - a) * (1 - a / before))
        wanted = np.sqrt(before) * x0 + np.sqrt(1 - before - deviation**2) * OUTPUT + deviation * NOISE
        found = step_back(sparse, OUTPUT, X0, NOISE, 2, Steps("ddim", variance="small", eta=eta))
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    last = step_back(sparse, OUTPUT, X0, NOISE, 0, ddim)
    np.testing.assert_allclose(last, (X0 - np.sqrt(1 - alphas(0)) * OUTPUT) / np.sqrt(alphas(0)), atol=1e-6)
    clipped = step_back(sparse, OUTPUT, X0, NOISE, 0, Steps("ddim", variance="small", clip=True))
    np.testing.assert_allclose(clipped, np.clip(last, -1, 1))
    # x_t is again the cut image and the noise that is left.
    cut = np.clip(x0, -1, 1)
    left = (X0 - np.sqrt(a) * cut) / np.sqrt(1 - a)
    assert np.abs(left - OUTPUT).max() > 0.1
    fitted = step_back(sparse, OUTPUT, X0, NOISE, 2, Steps("ddim", variance="small", clip=True, fit_noise=True))
    np.testing.assert_allclose(fitted, np.sqrt(before) * cut + np.sqrt(1 - before) * left, atol=2e-5)


def test_losses_are_the_formulas_in_float64():
    output = np.concatenate([OUTPUT, RNG.normal(size=OUTPUT.shape)], axis=-1).astype(np.float32)
    # At values that are far out, the mass on an interval is that of a tail.
    x0 = X0.copy()
    x0[0, 0, :3] = -1.0, 1.0, 0.2
    x0[0] = np.clip(x0[0], -1, 1)
    found = losses(FULL, output, x0, NOISE, STEP)
    np.testing.assert_allclose(found.simple, np.square(OUTPUT.astype(float) - NOISE).mean((1, 2)), rtol=1e-5)

    x, noise, said = x0.astype(float), NOISE.astype(float), output.astype(float)
    epsilon, share = said[..., :5], (said[..., 5:] + 1) / 2
    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.cumprod(1 - beta)
    for i, t in enumerate(STEP):
        a, before = bar[t], bar[t - 1] if t else 1.0
        second = beta[max(t, 1)] * (1 - bar[max(t, 1) - 1]) / (1 - bar[max(t, 1)])
        logs = share[i] * np.log(beta[t]) + (1 - share[i]) * np.log(second)
        xt = np.sqrt(a) * x[i] + np.sqrt(1 - a) * noise[i]

        def mean(start, a=a, before=before, t=t, xt=xt):
            return (beta[t] * np.sqrt(before) * start + (1 - before) * np.sqrt(1 - beta[t]) * xt) / (1 - a)

        guess = mean((xt - np.sqrt(1 - a) * epsilon[i]) / np.sqrt(a))
        if t:
            terms = 0.5 * (
                logs - np.log(second) - 1 + np.exp(np.log(second) - logs)
                + (mean(x[i]) - guess) ** 2 * np.exp(-logs)
            )  # fmt: skip
        else:

            def cdf(y):
                return 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))

            upper = cdf((x[i] - guess + 1 / 255) * np.exp(-logs / 2))
            lower = cdf((x[i] - guess - 1 / 255) * np.exp(-logs / 2))
            mass = np.where(x[i] < -0.999, upper, np.where(x[i] > 0.999, 1 - lower, upper - lower))
            terms = -np.log(np.maximum(mass, 1e-12))
        np.testing.assert_allclose(found.bound[i], terms.mean() / np.log(2), rtol=1e-4, err_msg=str(t))


@pytest.mark.long
def test_the_bound_teaches_the_variance_alone():
    output = np.concatenate([OUTPUT, OUTPUT], axis=-1)
    gradient = jax.grad(lambda o: losses(FULL, o, X0, NOISE, STEP).bound.sum())(output)
    assert not gradient[..., :5].any()
    assert np.abs(gradient[1:, ..., 5:]).min() > 0


def test_all_steps_are_one_scan():
    """The noise of each is asked for by its number on the way, the network by its timestep."""
    sparse = Noising.of(betas("cosine"), respaced(5, 900))
    noise = RNG.normal(size=(5, 2, 3)).astype(np.float32)

    def predict(x, t):
        return jnp.concatenate([jnp.sin(x + t), jnp.cos(x)], axis=-1)

    def run(x):
        return denoise(predict, sparse, x, lambda i: jnp.asarray(noise)[i], Steps(clip=True, temperature=0.8))

    x = X0[:2, 0, :3]
    wanted = x
    for i, step in enumerate((4, 3, 2, 1, 0)):
        said = predict(wanted, sparse.timesteps[step])
        wanted = step_back(sparse, said, wanted, noise[i], step, Steps(clip=True, temperature=0.8))
    np.testing.assert_allclose(run(x), wanted, rtol=1e-5, atol=1e-5)
    assert str(jax.make_jaxpr(run)(x)).count("scan[") == 1


def test_a_known_gaussian_is_sampled():
    """Of data N(2, .5^2) the best prediction is known in closed form; a chain of small steps ends there."""
    noising, key = Noising.of(betas("linear")), jax.random.key(0)

    def predict(x, t):
        a = jnp.asarray(noising.alphas_cumprod, jnp.float32)[t]
        spread = a * 0.25 + 1 - a
        return jnp.sqrt(1 - a) * (x - jnp.sqrt(a) * 2) / spread

    first = jax.random.normal(key, (2000, 1))
    draw = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (2000, 1)))(jnp.arange(1, 1001))
    for how in (Steps(variance="small"), Steps("ddim", variance="small"), Steps("ddim", variance="small", eta=1.0)):
        found = denoise(predict, noising, first, lambda i: draw[i], how)
        np.testing.assert_allclose([found.mean(), found.std()], [2, 0.5], atol=0.05)


def test_guidance():
    c, u = np.float32([1, 2]), np.float32([3, 5])
    np.testing.assert_array_equal(guided(c, u, 1.0), c)
    np.testing.assert_array_equal(guided(c, u, 0.0), u)
    np.testing.assert_allclose(guided(c, u, 1 + 1.7), (1 + 1.7) * c - 1.7 * u, rtol=1e-6)


def test_posterior_mean_of_all_noise_is_the_image_at_the_first_step():
    np.testing.assert_allclose(posterior_mean(FULL, X0, NOISE, 0), X0, atol=1e-6)


def test_spaced_steps():
    assert spaced(4, 10).tolist() == [0, 2, 4, 6]
    assert spaced(4, 10, "leading", 1).tolist() == [1, 3, 5, 7]
    assert spaced(4, 10, "linspace").tolist() == [0, 3, 6, 9]
    assert spaced(5, 10, "trailing").tolist() == [1, 3, 5, 7, 9]
    for count in range(1, 60):
        assert len(spaced(count, 59, "trailing")) == count
    for given, message in (((0, 10), "There are no 0"), ((11, 10), "There are no 11"), ((10, 10, "leading", 1), "end")):
        with pytest.raises(UserError, match=message):
            spaced(*given)


def test_what_is_before_the_first_step():
    table = betas("linear")
    assert Noising.of(table, spaced(10)).before[0] == 1
    kept = Noising.of(table, spaced(10, 1000, "leading", 1), to_image=False)
    assert kept.before[0] == np.cumprod(1 - table)[0] and kept.before[1] == kept.alphas_cumprod[0]
    back = Noising.of(table, spaced(10, 1000, "linspace"), stride=100)
    np.testing.assert_array_equal(back.before[[0, 2]], [1, np.cumprod(1 - table)[122]])


@pytest.mark.long
def test_implicit_steps_with_eta_1_have_the_moments_of_the_reverse_process():
    """Of a Gaussian the best prediction is linear in x, and so is each step: means and variances go on in closed form
    from step to step, for the full chain and for some of its steps."""
    mean, deviation = 0.4, 0.25
    for kept in (None, spaced(50)):
        noising = Noising.of(betas("linear"), kept)
        a = jnp.asarray(noising.alphas_cumprod, jnp.float32)

        def moments(how, noising=noising, a=a):
            def step_of(n, x, noise):
                said = jnp.sqrt(1 - a[n]) * (x - jnp.sqrt(a[n]) * mean) / (a[n] * deviation**2 + 1 - a[n])
                return step_back(noising, said, x, noise, n, how)

            @jax.vmap
            def line(n):
                zero, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
                rest = step_of(n, zero, zero)
                return jnp.stack([rest, step_of(n, one, zero) - rest, step_of(n, zero, one) - rest])

            rests, factors, noises = np.asarray(line(jnp.arange(len(a))), np.float64)[::-1, :, 0, 0].T
            found = [(0.0, 1.0)]
            for rest, factor, noise in zip(rests, factors, noises, strict=True):
                found.append((rest + factor * found[-1][0], factor**2 * found[-1][1] + noise**2))
            return np.array(found)

        reverse = moments(Steps("ddpm", variance="small"))
        np.testing.assert_allclose(moments(Steps("ddim", variance="small", eta=1.0)), reverse, atol=1e-4)
        if kept is None:
            np.testing.assert_allclose(reverse[-1], [mean, deviation**2], atol=2e-3)


def test_the_cosine_schedule_has_a_square_that_print_leaves_out():
    """Both end where the issue of diffusion says; only the one with the square is used."""
    angle = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2)
    last = [np.prod(np.maximum(ratio[1:] / ratio[:-1], 1 - 0.999)) for ratio in (angle**2, angle)]
    np.testing.assert_allclose(last, [2.43e-9, 1.56e-6], rtol=2e-2)
    np.testing.assert_allclose(Noising.of(betas("cosine")).alphas_cumprod[-1], last[0], rtol=1e-6)


def test_a_gradient_leads_as_the_paper_says():
    """ADM's algorithms 1 and 2, written out; with noise that is cut only before x_0 is led."""
    noising, gradient, step = Noising.of(betas("linear"), spaced(10)), 0.3 * NOISE[::-1], jnp.int32(6)
    a, before = noising.alphas_cumprod[6], noising.before[6]
    for variance in ("small", "large"):
        how = Steps("ddpm", "epsilon", variance)
        plain, led = (step_back(noising, OUTPUT, X0, NOISE, step, how, g) for g in (None, gradient))
        sigma = noising.posterior_variance[6] if variance == "small" else noising.betas[6]
        np.testing.assert_allclose(led - plain, sigma * gradient, rtol=1e-4, atol=1e-6)
    led = step_back(noising, OUTPUT, X0, NOISE, step, Steps("ddim", variance="small"), gradient)
    epsilon = OUTPUT - np.sqrt(1 - a) * gradient
    wanted = np.sqrt(before) * (X0 - np.sqrt(1 - a) * epsilon) / np.sqrt(a) + np.sqrt(1 - before) * epsilon
    np.testing.assert_allclose(led, wanted, rtol=1e-4, atol=1e-5)

    # A class that is likelier the larger x is.
    table = Noising.of(betas("linear", 20, 1e-4, 0.3))
    how = Steps("ddim", variance="small")

    def end(scale):
        return denoise(
            lambda x, t: 0 * x, table, X0, lambda i: NOISE, how, gradient=lambda x, t: scale * jnp.ones_like(x)
        )

    seen = [np.mean(end(scale)) for scale in (0.0, 0.5, 1.0)]
    assert seen[0] < seen[1] < seen[2]
    # Who looks at the steps sees them led.
    looked = trail(lambda x, t: 0 * x, table, X0, lambda i: NOISE, how, gradient=lambda x, t: jnp.ones_like(x))
    np.testing.assert_allclose(np.mean(np.asarray(looked.end)), seen[2], rtol=1e-5)
