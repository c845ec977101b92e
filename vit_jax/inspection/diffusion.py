"""What a diffusion does step by step, as arrays: its film strip, one step against many, and what each step is worth."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from vit_jax.checkpoints.given_pictures import check_pictures
from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.sampling import asked, settings_of
from vit_jax.data.pixels import as_bytes
from vit_jax.errors import UserError
from vit_jax.nn.diffusion import Noising, betas
from vit_jax.nn.diffusion_paths import StepLosses, losses_by_step
from vit_jax.nn.reverse_process import Diffuses
from vit_jax.tasks import Task, Variables, example_keys


@dataclasses.dataclass(frozen=True)
class FilmStrip:
    """Some of the steps of a few samples, from noise to image.

    Args:
        timesteps: of the m frames, most noise first.
        noisy: x_t, decoded, as bytes; where it is no image, in the autoencoder's latents, its picture is what the
            decoder makes of it.
        expected: the image that the network expects, seeing x_t.
        samples: after the last step.
    """

    timesteps: Int[np.ndarray, " m"]
    noisy: UInt8[np.ndarray, "m n H W 3"]
    expected: UInt8[np.ndarray, "m n H W 3"]
    samples: UInt8[np.ndarray, "n H W 3"]


def can_diffuse(loaded: Loaded) -> bool:
    """Whether samples of the checkpoint come out of noise step by step."""
    return isinstance(loaded.task, Diffuses)


def film_strip(
    loaded: Loaded, count: int = 4, frames: int = 8, *, prompts: Sequence[str] = (), seed: int = 0, **settings: Any
) -> FilmStrip:
    """The first samples of a seed, those of `loaded.sample`, with the way that they come.

    Args:
        frames: so many steps at equal distances, the first and the last among them.
        settings: of the task's `sampling`.

    Raises:
        UserError: for a checkpoint of no diffusion, or see `Loaded.sample`.
    """
    chosen, conditions, keys = asked_samples(loaded, count, prompts, seed, settings)
    timesteps, noisy, expected, samples = _trail(loaded.task, chosen, frames)(loaded.variables, conditions, keys)
    return FilmStrip(np.asarray(timesteps), as_bytes(noisy), as_bytes(expected), as_bytes(samples))


def by_steps(
    loaded: Loaded,
    steps: Sequence[int],
    count: int = 4,
    *,
    prompts: Sequence[str] = (),
    seed: int = 0,
    **settings: Any,
) -> dict[int, UInt8[np.ndarray, "n H W 3"]]:
    """Samples out of the same noise by so many steps of DDIM: one is the image that the network expects of noise alone.
    The noise is that of the most steps, whose samples are those of `loaded.sample`.

    Raises:
        UserError: see `film_strip`.
    """
    found, noise = {}, None
    for number in sorted(steps, reverse=True):
        given = {"sampler": "ddim", "spacing": "trailing", **settings, "steps": number}
        chosen, conditions, keys = asked_samples(loaded, count, prompts, seed, _known(loaded, given))
        if noise is None:
            noise = _start(loaded.task, chosen)(loaded.variables, conditions, keys)
        found[number] = as_bytes(_sampled(loaded.task, chosen)(loaded.variables, conditions, keys, noise))
    return {number: found[number] for number in steps}


@dataclasses.dataclass(frozen=True)
class Worth:
    """What each of the T steps is worth for given images; arrays [T], least noise first.

    Args:
        error: mean squared error of the prediction.
        bits: what a step costs, bits a dimension (DDPM, equation 5).
        rate: bits a dimension that have been sent when x_t is there: of all steps behind it, and of x_T.
        distortion: root of the mean squared error of the image that the network expects of x_t, in bytes of 0..255
            (DDPM, figure 5).
    """

    error: Float[np.ndarray, " T"]
    bits: Float[np.ndarray, " T"]
    rate: Float[np.ndarray, " T"]
    distortion: Float[np.ndarray, " T"]


def worth(loaded: Loaded, images: UInt8[np.ndarray, "N H W 3"], *, prompts: Sequence[str] = (), seed: int = 0) -> Worth:
    """One pass of the network for each of the T steps and image.

    Args:
        images: as `loaded.preprocess.to_uint8` makes them.
        prompts: what they are, one after the other and again from the first; by default nothing where the network
            knows how to be told nothing.

    Raises:
        UserError: see `film_strip`.
    """
    prompts = prompts or _nothing(loaded)
    plain = _known(loaded, {"guidance": 1.0})
    chosen, conditions, keys = asked_samples(loaded, len(images), prompts, seed, plain)
    x = loaded.preprocess.normalize(images)
    found: StepLosses = jax.tree.map(np.asarray, _worth(loaded.task, chosen)(loaded.variables, x, conditions, keys))
    behind = np.cumsum(found.bits[::-1].astype(np.float64))[::-1]
    rate = found.prior + np.append(behind[1:], 0.0)
    return Worth(found.error, found.bits, rate, 127.5 * np.sqrt(found.distortion))


def own_noising(loaded: Loaded) -> Noising:
    """All T steps as the task has them.

    Raises:
        UserError: for a checkpoint of no diffusion.
    """
    _check(loaded)
    return loaded.task.chain()


def asked_samples(
    loaded: Loaded, count: int, prompts: Sequence[str], seed: int, settings: Mapping[str, Any]
) -> tuple[Any, dict[str, Array], PRNGKeyArray]:
    """The settings, conditions and keys of the first samples, as `Loaded.sample` has them.

    Raises:
        UserError: see `film_strip`.
    """
    _check(loaded)
    chosen, numbers = settings_of(loaded.task, settings, "a diffusion"), np.arange(count)
    check_pictures(loaded.task, chosen, {})
    conditions = {name: jnp.asarray(x) for name, x in asked(loaded.task, numbers, chosen, prompts)(numbers).items()}
    return chosen, conditions, example_keys(seed, {"index": numbers.astype(np.int32)})


def schedules(steps: int) -> dict[str, Float[np.ndarray, " T"]]:
    """alpha-bar of so many steps: linear, with as much noise in all as DDPM's 1,000 steps add; the cosine of iDDPM; and
    the cosine without the square, as it is often printed, which nothing uses."""
    stretched = 1000 / steps
    linear = betas("linear", steps, min(1e-4 * stretched, 0.5), min(0.02 * stretched, 0.999))
    remaining = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2)
    return {
        "linear": Noising.of(linear).alphas_cumprod,
        "cosine": Noising.of(betas("cosine", steps)).alphas_cumprod,
        "cosine without the square": np.cumprod(np.maximum(remaining[1:] / remaining[:-1], 1e-3)),
    }


def _check(loaded: Loaded) -> None:
    if not can_diffuse(loaded):
        raise UserError(f"The samples of {loaded.path} do not come out of noise step by step", "Use a diffusion")


def _known(loaded: Loaded, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that the task has."""
    _check(loaded)
    known = {field.name for field in dataclasses.fields(loaded.task.sampling)}
    return {name: value for name, value in settings.items() if name in known}


def _nothing(loaded: Loaded) -> list[str]:
    """The prompt that says nothing; none where the network was always told something."""
    try:
        loaded.task.conditions([""], settings_of(loaded.task, {}, "a diffusion"))
    except UserError:
        return []
    return [""]


@functools.lru_cache(maxsize=8)
def _trail(task: Task, settings: Any, frames: int) -> Callable[..., tuple[Array, Array, Array, Array]]:
    @jax.jit
    def run(variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray) -> tuple[Array, ...]:
        process = task.reverse_process(variables, conditions, settings)
        found = process.trail(keys)
        timesteps = process.noising.timesteps[::-1]
        kept = np.linspace(0, len(timesteps) - 1, min(frames, len(timesteps))).round().astype(int)

        def shown(x: Array) -> Array:
            return jax.lax.map(process.decode, x[kept])

        return jnp.asarray(timesteps[kept]), shown(found.xt), shown(found.x0), process.decode(found.end)

    return run


@functools.lru_cache(maxsize=8)
def _start(task: Task, settings: Any) -> Callable[..., Array]:
    return jax.jit(lambda v, conditions, keys: task.reverse_process(v, conditions, settings).start(keys))


@functools.lru_cache(maxsize=16)
def _sampled(task: Task, settings: Any) -> Callable[..., Array]:
    @jax.jit
    def run(variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, start: Array) -> Array:
        process = task.reverse_process(variables, conditions, settings)
        return process.decode(process.sample(keys, start))

    return run


@functools.lru_cache(maxsize=8)
def _worth(task: Task, settings: Any) -> Callable[..., StepLosses]:
    @jax.jit
    def run(variables: Variables, images: Array, conditions: Mapping[str, Array], keys: PRNGKeyArray) -> StepLosses:
        process = task.reverse_process(variables, conditions, settings)
        x0 = process.encode(images)
        return losses_by_step(process.predict, task.chain(), x0, process.noise(keys), process.how)

    return run
