"""Ways through a diffusion beside sampling: from an image up to its noise, between two noises, and what there is to see
on the way.

"Denoising diffusion implicit models" (arXiv:2010.02502, DDIM): without noise of its own the sampler is a differential
equation, which can be gone in both directions (section 4.3), and noises may be mixed (section 5.3).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.nn.diffusion import (
    Noising,
    Prediction,
    Steps,
    add_noise,
    log_variance,
    posterior_mean,
    predicted,
    step_back,
    target,
    variational_term,
)

Predict = Callable[[Float[Array, "b *d"], Int[Array, ""]], Float[Array, "b *e"]]


def invert(
    predict: Predict,
    noising: Noising,
    x0: Float[Array, "b *d"],
    kind: Prediction = "epsilon",
    refinements: int = 0,
) -> Float[Array, "b *d"]:
    """The noise out of which DDIM with eta 0, without clipping, makes x_0; one `lax.scan`.

    A step up asks what the network says of the place where it ends, which nobody knows yet. It takes what the network
    says of the place where it begins: of small steps nearly the same. Each refinement asks again, where the step came
    to, so that few steps can be undone too; they converge where steps are not too long.

    Args:
        predict: the network: x_t and the timestep, a scalar, to the prediction.
        noising: the steps to go, those of the sampler.
        kind: of prediction.
        refinements: of each step.
    """
    a, before = noising.alphas_cumprod, noising.before
    # x_t of x_{t-1} and the noise: the sampler's step solved for x_t.
    kept = np.sqrt(a / before)
    added = np.sqrt(1 - a) - kept * np.sqrt(1 - before)
    kept, added = jnp.asarray(kept, jnp.float32), jnp.asarray(added, jnp.float32)
    timesteps = jnp.asarray(noising.timesteps)

    def body(x: Array, step: Array) -> tuple[Array, None]:
        def up(_: int, guess: Array) -> Array:
            said = predict(guess, timesteps[step])[..., : x.shape[-1]]  # beside it there may be a variance
            epsilon = predicted(noising, said, guess, step, kind)[1]
            return kept[step] * x + added[step] * epsilon

        return jax.lax.fori_loop(0, refinements + 1, up, x), None

    return jax.lax.scan(body, x0, jnp.arange(len(timesteps)))[0]


def slerp(a: Float[Array, "*d"], b: Float[Array, "*d"], shares: Float[Array, " n"]) -> Float[Array, "n *d"]:
    """On the arc from a to b (DDIM, equation 67): the mean of two noises of many dimensions is shorter than either, and
    no sample of a normal distribution any more; a place on the arc is.

    Args:
        shares: of b: 0 gives a, 1 gives b.
    """
    cosine = (a * b).sum() / jnp.maximum(jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel()), 1e-12)
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    shares = shares.reshape(-1, *[1] * a.ndim)
    # Of two that point the same way the arc is the line between them.
    straight = angle < 1e-3
    whole = jnp.sin(jnp.where(straight, 1.0, angle))
    of_a = jnp.where(straight, 1 - shares, jnp.sin((1 - shares) * angle) / whole)
    of_b = jnp.where(straight, shares, jnp.sin(shares * angle) / whole)
    return of_a * a + of_b * b


class Trail(NamedTuple):
    """What there is at each of S steps on the way from noise to an image.

    Args:
        xt: before the step.
        x0: what the network expects in the end, seeing x_t.
        end: x_0 after the last step.
    """

    xt: Float[Array, "s b *d"]
    x0: Float[Array, "s b *d"]
    end: Float[Array, "b *d"]


def trail(
    predict: Predict,
    noising: Noising,
    x: Float[Array, "b *d"],
    noise: Callable[[Int[Array, ""]], Float[Array, "b *d"]],
    how: Steps,
    after: Predict | None = None,
    gradient: Predict | None = None,
) -> Trail:
    """The way that `vit_jax.nn.diffusion.denoise` goes with the same arguments."""
    count = len(noising.timesteps)
    timesteps = jnp.asarray(noising.timesteps)

    def body(x: Array, passed: Array) -> tuple[Array, tuple[Array, Array]]:
        step = count - 1 - passed
        output = predict(x, timesteps[step])
        said = output[..., : x.shape[-1]]  # beside it there may be a variance
        x0 = predicted(noising, said, x, step, how.prediction)[0]
        x0 = jnp.clip(x0, -1, 1) if how.clip else x0
        led = None if gradient is None else gradient(x, timesteps[step])
        back = step_back(noising, output, x, noise(passed), step, how, led)
        return back if after is None else after(back, step), (x, x0)

    end, (xt, x0) = jax.lax.scan(body, x, jnp.arange(count))
    return Trail(xt, x0, end)


class StepLosses(NamedTuple):
    """What a network is worth at each of S steps, least noise first; means over examples and dimensions.

    Args:
        error: squared, of what it predicts (DDPM, equation 14).
        bits: its term of the variational bound, bits a dimension: what it costs to send x_{t-1} to who has x_t.
        distortion: squared, of the image that it expects.
        prior: bits a dimension of x_T, to who has nothing.
    """

    error: Float[Array, " s"]
    bits: Float[Array, " s"]
    distortion: Float[Array, " s"]
    prior: Float[Array, ""]


def losses_by_step(
    predict: Predict,
    noising: Noising,
    x0: Float[Array, "b *d"],
    noise: Callable[[Int[Array, ""]], Float[Array, "b *d"]],
    how: Steps,
) -> StepLosses:
    """All terms of the variational bound (DDPM, equation 5), one draw of noise for each step and example.

    Args:
        x0: in -1..1; the term of the first step takes it for bytes (DDPM, section 3.3), which of latents means nothing.
        noise: that of a step.
        how: of which the prediction, the variance and the clipping count.
    """

    def body(_: None, step: Array) -> tuple[None, tuple[Array, Array, Array]]:
        drawn = noise(step)
        steps = jnp.full(len(x0), step)
        xt = add_noise(noising, x0, drawn, steps)
        output, share = predict(xt, jnp.asarray(noising.timesteps)[step]), None
        if how.variance == "learned_range":
            output, share = jnp.split(output, 2, axis=-1)
        error = jnp.square(output - target(noising, x0, drawn, steps, how.prediction)).mean()
        expected = predicted(noising, output, xt, steps, how.prediction)[0]
        expected = jnp.clip(expected, -1, 1) if how.clip else expected
        mean = posterior_mean(noising, expected, xt, steps)
        logs = jnp.broadcast_to(log_variance(noising, steps, how.variance, share, xt), xt.shape)
        bits = variational_term(noising, x0, xt, steps, mean, logs).mean()
        return None, (error, bits, jnp.square(expected - x0).mean())

    _, (error, bits, distortion) = jax.lax.scan(body, None, jnp.arange(len(noising.timesteps)))
    # x_T of x_0 has the mean sqrt(a) x_0 and the variance 1 - a, and is coded as if it were standard normal.
    a = float(noising.alphas_cumprod[-1])
    prior = 0.5 * (a * jnp.square(x0).mean() - a - np.log1p(-a)) / np.log(2)
    return StepLosses(error, bits, distortion, prior)
