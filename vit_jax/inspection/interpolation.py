"""Between two images: in their pixels, in the latents of an autoencoder, and in the noise out of which a diffusion
makes them; and sums and differences of latents."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.sampling import settings_of
from vit_jax.data.pixels import as_bytes
from vit_jax.errors import UserError
from vit_jax.nn.diffusion_paths import invert, slerp
from vit_jax.nn.image_tokenizer import ImageTokenizer
from vit_jax.nn.reverse_process import Diffuses, ReverseProcess
from vit_jax.tasks import Task, Variables

SPACES = ("pixels", "latents", "noise")
Images = UInt8[np.ndarray, "N H W 3"]

_STEPS = 50  # of DDIM, where the settings say none
_OF_SAMPLES = ("strength", "size")  # settings of theirs that given images have no use for
_REFINEMENTS = 3  # of each step of the inversion, see `invert`


def spaces_of(loaded: Loaded) -> tuple[str, ...]:
    """Those of `SPACES` that a checkpoint has."""
    if loaded.preprocess is None:
        return ()
    if not isinstance(loaded.task, Diffuses):
        return ("pixels", "latents") if isinstance(loaded.model, ImageTokenizer) else ("pixels",)
    latents = ("latents",) if _has_latents(loaded) else ()
    # Nobody says which pictures would go with what is between two images.
    told = loaded.task.invertible and not _needed(loaded.task, inverting(loaded.task, {}))
    return ("pixels", *latents, *(("noise",) if told else ()))


def interpolate(
    loaded: Loaded,
    a: Images,
    b: Images,
    shares: Sequence[float],
    spaces: Sequence[str] | None = None,
    *,
    prompts: Sequence[str] = ("",),
    settings: Mapping[str, Any] | None = None,
) -> dict[str, UInt8[np.ndarray, "N S H W 3"]]:
    """Of each pair of images those between them, by the name of the space.

    - "pixels": a (1 - s) + b s of their bytes, where both images are seen at once;
    - "latents": the same of their latents, decoded;
    - "noise": each image is taken up to its noise by DDIM with eta 0 (arXiv:2010.02502, section 4.3), and the places on
      the arc between the two noises come back down to images.

    Args:
        a, b: as `loaded.preprocess.to_uint8` makes them.
        shares: of b, from 0 to 1.
        spaces: of `SPACES`; by default all that the checkpoint has.
        prompts: what the images are, one for all or one for each pair; "" says nothing.
        settings: of the task's `sampling`; the steps are 50 by default, without guidance.

    Raises:
        UserError: for a space that the checkpoint does not have, settings with which a sampler cannot be inverted, or a
            prompt that the task cannot follow.
    """
    spaces = spaces_of(loaded) if spaces is None else spaces
    _check(loaded, spaces)
    shares = np.asarray(shares, np.float32)
    found = {}
    for space in spaces:
        if space == "pixels":
            weights = shares.reshape(1, -1, 1, 1, 1)
            mixed = (1 - weights) * a[:, None].astype(np.float32) + weights * b[:, None].astype(np.float32)
            found[space] = np.round(mixed).astype(np.uint8)
            continue
        pair = [loaded.preprocess.normalize(x) for x in (a, b)]
        if space == "latents":
            z_a, z_b = (_coder(loaded.task, True)(loaded.variables, x) for x in pair)
            weights = jnp.asarray(shares).reshape(1, -1, *[1] * (z_a.ndim - 1))
            mixed = (1 - weights) * z_a[:, None] + weights * z_b[:, None]
            images = _coder(loaded.task, False)(loaded.variables, mixed.reshape(-1, *z_a.shape[1:]))
            found[space] = as_bytes(images).reshape(len(a), len(shares), *a.shape[1:])
            continue
        chosen = inverting(loaded.task, settings or {})
        conditions = loaded.task.conditions([prompts[i % len(prompts)] for i in range(len(a))], chosen)
        run = _between(loaded.task, chosen, len(shares))
        images = run(loaded.variables, *pair, {name: jnp.asarray(x) for name, x in conditions.items()}, shares)
        found[space] = as_bytes(images)
    return found


def arithmetic(loaded: Loaded, a: Images, b: Images, c: Images) -> Images:
    """The images of latents a - b + c, row by row: what a has and b has not, given to c.

    Raises:
        UserError: for a checkpoint without latents.
    """
    z_a, z_b, z_c = (latents_of(loaded, images) for images in (a, b, c))
    return images_of(loaded, z_a - z_b + z_c)


def latents_of(loaded: Loaded, images: Images) -> Float[Array, "N h w D"]:
    """Those of an autoencoder, or of the one that a diffusion's images go through.

    Raises:
        UserError: for a checkpoint without latents.
    """
    _check(loaded, ("latents",))
    return _coder(loaded.task, True)(loaded.variables, loaded.preprocess.normalize(images))


def images_of(loaded: Loaded, latents: Float[Array, "N h w D"]) -> Images:
    """The images that latents are decoded to.

    Raises:
        UserError: for a checkpoint without latents.
    """
    _check(loaded, ("latents",))
    return as_bytes(_coder(loaded.task, False)(loaded.variables, latents))


def inverting(task: Task, settings: Mapping[str, Any]) -> Any:
    """Settings of a sampler that can be gone the other way: DDIM without noise of its own, led by nothing.

    The way to noise is never clipped; the way back is where the task's sampler is, by default in pixels, where a
    network that has learned little leads far away without it: there the ends of a row are as near to the images as the
    network is good.

    Raises:
        UserError: for settings that say otherwise.
    """
    known = {field.name for field in dataclasses.fields(task.sampling)}
    for name in _OF_SAMPLES:
        if settings.get(name) is not None:
            raise UserError(f"--{name} is of samples, and between images nothing goes by it", f"Leave out --{name}")
    fixed = {"sampler": "ddim", "eta": 0.0, "classifier_scale": 0.0}
    fixed = {name: value for name, value in fixed.items() if name in known}
    for name, value in fixed.items():
        if settings.get(name, value) != value:
            flag = name.replace("_", "-")
            raise UserError(
                f"Noise is found by a sampler with --{flag} {value}, not {settings[name]}", f"Leave out --{flag}"
            )
    usual = {"steps": min(_STEPS, task.steps), "guidance": 1.0}
    usual = {name: value for name, value in usual.items() if name in known}
    return settings_of(task, {**usual, **settings, **fixed}, "a diffusion")


def _check(loaded: Loaded, spaces: Sequence[str]) -> None:
    had = spaces_of(loaded)
    for space in spaces:
        if space not in SPACES:
            raise UserError(f"There is no space {space!r} between images", f"There are {', '.join(SPACES)}")
        if space not in had:
            needed = {
                "pixels": "a model of images",
                "latents": "an autoencoder, or a diffusion in the latents of one",
                "noise": "a diffusion that goes by no picture",
            }
            raise UserError(f"{loaded.path} has no {space} of images", f"Use {needed[space]}")


@functools.lru_cache(maxsize=8)
def _between(task: Task, settings: Any, count: int) -> Callable[..., Array]:
    """Of images a and b [N, H, W, 3] in -1..1, and so many shares, what is between them in noise [N, S, H, W, 3]."""

    @jax.jit
    def run(variables: Variables, a: Array, b: Array, conditions: Mapping[str, Array], shares: Array) -> Array:
        def process(times: int) -> ReverseProcess:
            repeated = {name: jnp.repeat(x, times, axis=0) for name, x in conditions.items()}
            return task.reverse_process(variables, repeated, settings)

        up, down = process(2), process(count)
        x0 = up.encode(jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:]))
        noise = invert(up.predict, up.noising, x0, up.how.prediction, _REFINEMENTS)
        noise = noise.reshape(len(a), 2, *noise.shape[1:])
        arcs = jax.vmap(slerp, (0, 0, None))(noise[:, 0], noise[:, 1], shares)
        # The keys' noise is added nowhere.
        keys = jax.random.split(jax.random.key(0), len(a) * count)
        images = down.decode(down.sample(keys, arcs.reshape(-1, *arcs.shape[2:])))
        return images.reshape(len(a), count, *images.shape[1:])

    return run


@functools.lru_cache(maxsize=8)
def _coder(task: Task, encodes: bool) -> Callable[[Variables, Array], Array]:
    """Images in -1..1 to latents, or latents to images in 0..1."""

    @jax.jit
    def run(variables: Variables, x: Array) -> Array:
        if isinstance(task, Diffuses):
            process = _process(task, variables)
            return process.encode(x) if encodes else process.decode(x)
        collections = {"params": variables["params"], **variables["model_state"]}
        if encodes:
            return task.model.apply(collections, x, method="encode")
        return task.model.apply(collections, x, method="decode") * 0.5 + 0.5

    return run


def _process(task: Task, variables: Variables) -> ReverseProcess:
    """One whose condition does not matter."""
    chosen = inverting(task, {})
    try:
        nothing = task.conditions([""], chosen)
    except UserError:  # of a network that was always told something
        nothing = task.unprompted(np.arange(1))
    nothing = {**nothing, **{name: jnp.zeros((1, *shape)) for name, shape in _needed(task, chosen).items()}}
    return task.reverse_process(variables, nothing, chosen)


def _needed(task: Task, settings: Any) -> dict[str, tuple[int, int, int]]:
    """Shapes of the pictures without which a task draws nothing."""
    return {name: each.shape for name, each in task.pictures(settings).items() if each.needed}


def _has_latents(loaded: Loaded) -> bool:
    """Whether what is diffused is no image."""
    image = (*loaded.preprocess.image_size, 3)
    # Traced once however often it is asked, as what is compiled is.
    one = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    return _coder(loaded.task, True).eval_shape(loaded.variables, one).shape[1:] != image
