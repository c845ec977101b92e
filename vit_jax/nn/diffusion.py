"""Diffusion: noise that is added step by step, and how a network that was taught to see it takes it away again.

"Denoising diffusion probabilistic models" (arXiv:2006.11239, DDPM), "Denoising diffusion implicit models"
(arXiv:2010.02502, DDIM), "Improved denoising diffusion probabilistic models" (arXiv:2102.09672, iDDPM). Pure functions
on arrays of any shape, examples first. Tables are made on the host in float64 and read as float32: near the end of the
cosine schedule alpha-bar is 2e-9.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.errors import UserError
from vit_jax.nn.style import check_choice

BetaSchedule = Literal["linear", "scaled_linear", "cosine"]
# What a network predicts of x_t: the noise, the image, or v = sqrt(a) noise - sqrt(1 - a) x_0.
Prediction = Literal["epsilon", "x0", "v"]
# Of a step back: the posterior's ("small"), beta ("large"), or between both as the network says (iDDPM, equation 15).
Variance = Literal["small", "large", "learned_range"]

# Which timesteps a sampler keeps, see `spaced`.
Spacing = Literal["leading", "linspace", "trailing"]

_MAX_BETA = 0.999  # of the cosine schedule: beyond it the last steps would be singular


def betas(
    schedule: BetaSchedule, steps: int = 1000, first: float = 1e-4, last: float = 0.02
) -> Float[np.ndarray, " steps"]:
    """How much of the variance of x_t is new noise, float64.

    Args:
        schedule: "linear" from first to last (DDPM, section 4); "scaled_linear", linear in the square root (Stable
            Diffusion: 0.00085 to 0.012); "cosine", by which alpha-bar is the square of a cosine (iDDPM, equation 17).
        steps: T.
        first: where the linear ones begin; the cosine does not read it, nor `last`.
    """
    check_choice("schedule of the noise", schedule, get_args(BetaSchedule))
    if schedule == "linear":
        return np.linspace(first, last, steps, dtype=np.float64)
    if schedule == "scaled_linear":
        return np.linspace(first**0.5, last**0.5, steps, dtype=np.float64) ** 2
    remaining = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - remaining[1:] / remaining[:-1], _MAX_BETA)


def check_betas(first: float, last: float) -> None:
    """Raises a UserError for noise from `first` to `last` that does not grow below 1."""
    if not 0 < first <= last < 1:
        raise UserError(f"Noise from {first:g} to {last:g} does not grow below 1", "Use 0 < first <= last < 1")


def respaced(count: int, steps: int = 1000) -> Int[np.ndarray, " count"]:
    """`count` of the timesteps 0..steps - 1 at equal distances, the first and the last among them (iDDPM, section 4);
    one alone is the first.

    Raises:
        UserError: for none, or more than there are.
    """
    if not 1 <= count <= steps:
        raise UserError(f"There are no {count} steps among {steps}", f"Use from 1 to {steps}")
    stride = (steps - 1) / (count - 1) if count > 1 else 1.0
    # The authors add up the stride; Python rounds halves to even numbers, as they do.
    places = np.cumsum([0.0, *[stride] * (count - 1)])
    return np.array([round(place) for place in places], np.int32)


def spaced(count: int, steps: int = 1000, spacing: Spacing = "leading", offset: int = 0) -> Int[np.ndarray, " count"]:
    """`count` of the timesteps 0..steps - 1, least noise first, as samplers of DDIM go (table 2 of arXiv:2305.08891).

    Args:
        spacing: "leading" has each steps // count, from 0 on, plus the offset; "linspace" has the first and the last
            and equal distances, rounded; "trailing" counts back from the last by steps / count.
        offset: of "leading"; 1 in Stable Diffusion.

    Raises:
        UserError: for no step, more than there are, or an offset beyond the last one.
    """
    check_choice("spacing of the steps", spacing, get_args(Spacing))
    if not 1 <= count <= steps:
        raise UserError(f"There are no {count} steps among {steps}", f"Use from 1 to {steps}")
    if spacing == "linspace":
        return np.linspace(0, steps - 1, count).round().astype(np.int32)
    if spacing == "trailing":
        # Counted with the quotient, as others do: the last of some counts would be one too many.
        return (np.round(np.arange(steps, 0, -steps / count))[:count][::-1] - 1).astype(np.int32)
    found = np.arange(count, dtype=np.int32) * (steps // count) + offset
    if found[-1] >= steps:
        raise UserError(
            f"{count} steps with an offset of {offset} end behind the last of {steps}", "Use fewer steps or no offset"
        )
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Noising:
    """The steps of a diffusion, or those of them that a sampler goes; all arrays [S], float64, least noise first.

    Args:
        timesteps: what the network is told of each step.
        alphas_cumprod: alpha-bar, the share of the variance of x_t that is x_0.
        before: the same one step earlier; 1 before the first.
    """

    timesteps: Int[np.ndarray, " s"]
    alphas_cumprod: Float[np.ndarray, " s"]
    before: Float[np.ndarray, " s"]

    @classmethod
    def of(
        cls,
        betas: Float[np.ndarray, " steps"],
        timesteps: Int[np.ndarray, " s"] | None = None,
        *,
        stride: int | None = None,
        to_image: bool = True,
    ) -> "Noising":
        """All steps of a schedule, or some: between them the noise of those left out is added at once.

        Args:
            timesteps: those that are kept, least noise first.
            stride: each step goes back so many timesteps, whichever are kept, as diffusers' DDIM does; None for the
                kept one before.
            to_image: what is before the first step has no noise; False gives it that of timestep 0, as Stable
                Diffusion's sampler does (`set_alpha_to_one` of diffusers).
        """
        kept = np.arange(len(betas), dtype=np.int32) if timesteps is None else np.asarray(timesteps, np.int32)
        alphas = np.cumprod(1 - np.asarray(betas, np.float64))
        first = 1.0 if to_image else alphas[0]
        if stride is None:
            return cls(kept, alphas[kept], np.append(first, alphas[kept][:-1]))
        earlier = kept - stride
        return cls(kept, alphas[kept], np.where(earlier < 0, first, alphas[np.maximum(earlier, 0)]))

    def until(self, count: int) -> "Noising":
        """The first `count` steps, those of the least noise."""
        return Noising(self.timesteps[:count], self.alphas_cumprod[:count], self.before[:count])

    @functools.cached_property
    def betas(self) -> Float[np.ndarray, " s"]:
        """Share of new noise."""
        return 1 - self.alphas_cumprod / self.before

    @functools.cached_property
    def posterior_variance(self) -> Float[np.ndarray, " s"]:
        """Of q(x_{t-1} | x_t, x_0) (DDPM, equation 7); 0 at the first step."""
        return self.betas * (1 - self.before) / (1 - self.alphas_cumprod)

    @functools.cached_property
    def posterior_log_variance(self) -> Float[np.ndarray, " s"]:
        """Its logarithm, at the first step that of the second (iDDPM's clipping)."""
        variance = self.posterior_variance
        return np.log(np.append(variance[1:2], variance[1:]) if len(variance) > 1 else self.betas)

    @functools.cached_property
    def posterior_of_x0(self) -> Float[np.ndarray, " s"]:
        """The factor of x_0 in the posterior's mean."""
        return self.betas * np.sqrt(self.before) / (1 - self.alphas_cumprod)

    @functools.cached_property
    def posterior_of_xt(self) -> Float[np.ndarray, " s"]:
        """The factor of x_t in the posterior's mean."""
        return (1 - self.before) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod)


def _at(table: Float[np.ndarray, " s"], step: Int[Array, "*b"], like: Array) -> Float[Array, "..."]:
    """A table's values at one step, or at each example's, to be broadcast over arrays of the shape of `like`."""
    values = jnp.asarray(table, jnp.float32)[step]
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim)) if values.ndim else values


def add_noise(
    noising: Noising, x0: Float[Array, "b *d"], noise: Float[Array, "b *d"], step: Int[Array, "*b"]
) -> Float[Array, "b *d"]:
    """x_t of q(x_t | x_0) (DDPM, equation 4).

    Args:
        noise: standard normal.
        step: number of the step in `noising`, of each example or of all.
    """
    alphas = noising.alphas_cumprod
    return _at(np.sqrt(alphas), step, x0) * x0 + _at(np.sqrt(1 - alphas), step, x0) * noise


def posterior_mean(
    noising: Noising, x0: Float[Array, "b *d"], xt: Float[Array, "b *d"], step: Int[Array, "*b"]
) -> Float[Array, "b *d"]:
    """The mean of q(x_{t-1} | x_t, x_0) (DDPM, equation 7)."""
    return _at(noising.posterior_of_x0, step, xt) * x0 + _at(noising.posterior_of_xt, step, xt) * xt


def predicted(
    noising: Noising, output: Float[Array, "b *d"], xt: Float[Array, "b *d"], step: Int[Array, "*b"], kind: Prediction
) -> tuple[Float[Array, "b *d"], Float[Array, "b *d"]]:
    """x_0 and the noise, of what a network says of x_t."""
    check_choice("prediction", kind, get_args(Prediction))
    alphas = noising.alphas_cumprod
    signal, noise = _at(np.sqrt(alphas), step, xt), _at(np.sqrt(1 - alphas), step, xt)
    if kind == "v":
        return signal * xt - noise * output, signal * output + noise * xt
    # Not xt / signal: the quotients are made in float64.
    rest, ratio = _at(np.sqrt(1 / alphas), step, xt), _at(np.sqrt(1 / alphas - 1), step, xt)
    if kind == "epsilon":
        return rest * xt - ratio * output, output
    return output, (rest * xt - output) / ratio


def target(
    noising: Noising, x0: Float[Array, "b *d"], noise: Float[Array, "b *d"], step: Int[Array, "*b"], kind: Prediction
) -> Float[Array, "b *d"]:
    """What a network should say of x_t, see `predicted`."""
    check_choice("prediction", kind, get_args(Prediction))
    if kind == "v":
        alphas = noising.alphas_cumprod
        return _at(np.sqrt(alphas), step, x0) * noise - _at(np.sqrt(1 - alphas), step, x0) * x0
    return noise if kind == "epsilon" else x0


def log_variance(
    noising: Noising,
    step: Int[Array, "*b"],
    kind: Variance,
    share: Float[Array, "b *d"] | None = None,
    like: Float[Array, "b *d"] | None = None,
) -> Float[Array, "..."]:
    """The logarithm of the variance of a step back.

    Args:
        share: for "learned_range", what the network says: -1 is the posterior's variance, 1 is beta.
        like: an array to whose shape it is broadcast; by default `share`.
    """
    check_choice("variance", kind, get_args(Variance))
    like = share if like is None else like
    small = noising.posterior_log_variance
    if kind == "small":
        return _at(small, step, like)
    if kind == "large":
        # At the first step the posterior's of the second, for a better likelihood (iDDPM's code).
        return _at(np.append(small[:1], np.log(noising.betas[1:])), step, like)
    share = (share + 1) / 2
    return share * _at(np.log(noising.betas), step, like) + (1 - share) * _at(small, step, like)


class DiffusionLosses(NamedTuple):
    """Of each example [B].

    Args:
        simple: mean squared error of what the network predicts (DDPM, equation 14).
        bound: its term of the variational bound, bits a dimension; it teaches the variance alone.
    """

    simple: Float[Array, " b"]
    bound: Float[Array, " b"]


def losses(
    noising: Noising,
    output: Float[Array, "b *d"],
    x0: Float[Array, "b *d"],
    noise: Float[Array, "b *d"],
    step: Int[Array, " b"],
    kind: Prediction = "epsilon",
) -> DiffusionLosses:
    """The losses of a network that learns the range of the variance (iDDPM, section 3.1).

    Args:
        output: of the network, twice as many channels (the last axis) as x_0: the prediction, then the variance.
        noise: that x_t was made with, by `add_noise`.
    """
    prediction, share = jnp.split(output, 2, axis=-1)
    error = jnp.square(prediction - target(noising, x0, noise, step, kind))
    xt = add_noise(noising, x0, noise, step)
    mean = posterior_mean(noising, predicted(noising, jax.lax.stop_gradient(prediction), xt, step, kind)[0], xt, step)
    logs = log_variance(noising, step, "learned_range", share)
    bound = variational_term(noising, x0, xt, step, mean, logs)
    return DiffusionLosses(_per_example(error), bound)


def variational_term(
    noising: Noising,
    x0: Float[Array, "b *d"],
    xt: Float[Array, "b *d"],
    step: Int[Array, " b"],
    mean: Float[Array, "b *d"],
    log_variance: Float[Array, "b *d"],
) -> Float[Array, " b"]:
    """A term of the variational bound, bits a dimension (DDPM, equation 5): the divergence of a step back from the
    posterior; at the first step how likely x_0 is, as one of 256 values in -1..1 (section 3.3)."""
    true_mean = posterior_mean(noising, x0, xt, step)
    true_log = _at(noising.posterior_log_variance, step, xt)
    divergence = 0.5 * (
        log_variance - true_log - 1 + jnp.exp(true_log - log_variance)
        + jnp.square(true_mean - mean) * jnp.exp(-log_variance)
    )  # fmt: skip
    first = -discretized_log_likelihood(x0, mean, 0.5 * log_variance)
    return jnp.where(step == 0, _per_example(first), _per_example(divergence)) / math.log(2)


def discretized_log_likelihood(
    x: Float[Array, "*b"], mean: Float[Array, "*b"], log_scale: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """The logarithm of a Gaussian's mass on the interval of width 2/255 around x; the outermost ones reach to infinity
    (DDPM, equation 13). The distribution function is the tanh that the authors' code has for it."""

    def below(y: Array) -> Array:
        return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))

    # As the authors have it: far above the mean, where both shares round to 1, the mass is at once the least one.
    centred, inverse = x - mean, jnp.exp(-log_scale)
    upper, lower = below(inverse * (centred + 1 / 255)), below(inverse * (centred - 1 / 255))
    mass = jnp.where(x < -0.999, upper, jnp.where(x > 0.999, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(mass, 1e-12))


def _per_example(x: Float[Array, "b *d"]) -> Float[Array, " b"]:
    return x.reshape(x.shape[0], -1).mean(axis=1)


def guided(
    conditional: Float[Array, "*b"], unconditional: Float[Array, "*b"], scale: float | Float[Array, "..."]
) -> Float[Array, "*b"]:
    """u + scale (c - u) ("Classifier-free diffusion guidance", arXiv:2207.12598): 1 is no guidance, 0 no condition. The
    paper's own w is scale - 1: (1 + w) c - w u."""
    return unconditional + scale * (conditional - unconditional)


@dataclasses.dataclass(frozen=True)
class Steps:
    """How a sampler goes back.

    Args:
        kind: "ddpm" draws from the reverse process, "ddim" goes on with the noise that the network sees.
        prediction: what the network gives, see `Prediction`.
        variance: of a DDPM step. For "learned_range" the network's last axis is twice as long as x's.
        clip: x_0 as predicted is cut to -1..1 first.
        temperature: the noise of a step is multiplied by it.
        eta: of DDIM: 0 adds no noise, 1 as much as the posterior has (DDIM, equation 16).
        fit_noise: DDIM goes on with the noise that x_t has beside the cut x_0, as guided-diffusion does; else with the
            network's, which is diffusers' default.
    """

    kind: Literal["ddpm", "ddim"] = "ddpm"
    prediction: Prediction = "epsilon"
    variance: Variance = "learned_range"
    clip: bool = False
    temperature: float | Float[Array, ""] = 1.0
    eta: float = 0.0
    fit_noise: bool = False


def step_back(
    noising: Noising,
    output: Float[Array, "b *e"],
    xt: Float[Array, "b *d"],
    noise: Float[Array, "b *d"],
    step: Int[Array, ""],
    how: Steps = Steps(),
    gradient: Float[Array, "b *d"] | None = None,
) -> Float[Array, "b *d"]:
    """x_{t-1} of x_t and what the network says of it; at the first step no noise is added.

    Args:
        noise: standard normal; DDIM with eta 0 does not read it.
        step: number of the step in `noising`.
        gradient: by which the step is led, of how likely x_t is what is asked for: the mean moves by the variance times
            it, in DDIM the noise by -sqrt(1 - a) times it (ADM, arXiv:2105.05233, algorithms 1 and 2).
    """
    prediction, share = output, None
    if how.variance == "learned_range":
        prediction, share = jnp.split(output, 2, axis=-1)
    x0, epsilon = predicted(noising, prediction, xt, step, how.prediction)
    x0 = jnp.clip(x0, -1, 1) if how.clip else x0
    goes_on = jnp.where(step > 0, how.temperature, 0.0)
    if how.kind == "ddpm":
        logs = log_variance(noising, step, how.variance, share, xt)
        mean = posterior_mean(noising, x0, xt, step)
        mean = mean if gradient is None else mean + jnp.exp(logs) * gradient
        return mean + goes_on * jnp.exp(0.5 * logs) * noise
    if how.clip and how.fit_noise:
        _, epsilon = predicted(noising, x0, xt, step, "x0")
    if gradient is not None:
        # What the other noise makes of x_0, which was cut before, as in the authors' code.
        alphas = noising.alphas_cumprod
        epsilon = epsilon - _at(np.sqrt(1 - alphas), step, xt) * gradient
        x0 = x0 + _at((1 - alphas) / np.sqrt(alphas), step, xt) * gradient
    before, deviation = noising.before, how.eta * np.sqrt(noising.posterior_variance)
    onward = _at(np.sqrt(np.maximum(1 - before - deviation**2, 0)), step, xt)
    x = _at(np.sqrt(before), step, xt) * x0 + onward * epsilon
    # Before the first step there is no deviation, unless its noise stays (`Noising.of`).
    return x + how.temperature * _at(deviation, step, xt) * noise if how.eta else x


def denoise(
    predict: Callable[[Float[Array, "b *d"], Int[Array, ""]], Float[Array, "b *e"]],
    noising: Noising,
    x: Float[Array, "b *d"],
    noise: Callable[[Int[Array, ""]], Float[Array, "b *d"]],
    how: Steps = Steps(),
    after: Callable[[Float[Array, "b *d"], Int[Array, ""]], Float[Array, "b *d"]] | None = None,
    gradient: Callable[[Float[Array, "b *d"], Int[Array, ""]], Float[Array, "b *d"]] | None = None,
) -> Float[Array, "b *d"]:
    """From noise to x_0, all steps as one `lax.scan`: compiling takes as long for ten steps as for a thousand.

    Args:
        predict: the network: x_t and the timestep, a scalar, to its output.
        noising: the steps to go.
        x: standard normal noise.
        noise: that of the n-th step on the way, counted from 0.
        how: see `Steps`.
        after: what is made of x after each step, of its number in `noising`; None to leave it as it is.
        gradient: of x_t and the timestep, see `step_back`.
    """
    count = len(noising.timesteps)
    timesteps = jnp.asarray(noising.timesteps)

    def body(x: Array, passed: Array) -> tuple[Array, None]:
        step = count - 1 - passed
        led = None if gradient is None else gradient(x, timesteps[step])
        x = step_back(noising, predict(x, timesteps[step]), x, noise(passed), step, how, led)
        return x if after is None else after(x, step), None

    return jax.lax.scan(body, x, jnp.arange(count))[0]
