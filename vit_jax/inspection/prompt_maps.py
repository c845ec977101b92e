"""Where a diffusion looks for each word of a prompt: its cross-attention, as maps over the image.

Tang et al., "What the DAAM: interpreting Stable Diffusion using cross attention" (arXiv:2210.04885, section 2.2).
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from vit_jax.checkpoints.load import Loaded
from vit_jax.data.pixels import as_bytes
from vit_jax.errors import UserError
from vit_jax.inspection.diffusion import asked_samples
from vit_jax.inspection.texts import split_words
from vit_jax.nn.image_tokenizer import Grid
from vit_jax.tasks import Task, Variables

_LAYER = "cross"  # what a block's attention to a memory is called


@dataclasses.dataclass(frozen=True)
class PromptMaps:
    """What the places of a sample attended to while it came about.

    Args:
        words: of the prompt as the model reads it, special tokens and padding included.
        special: which of them belong to no word of the prompt.
        maps: by rows and columns of the layers' maps, finest first: the share of each word in the attention of each
            place, a mean over heads, layers and steps. All words together have 1.
        image: the sample.
    """

    words: tuple[str, ...]
    special: Bool[np.ndarray, " W"]
    maps: Mapping[Grid, Float[np.ndarray, "W h w"]]
    image: UInt8[np.ndarray, "H W 3"]

    @property
    def together(self) -> Float[np.ndarray, "W h w"]:
        """The mean of all resolutions, in the finest (DAAM enlarges to the image, by cubic interpolation as here)."""
        height, width = max(self.maps)

        def enlarged(maps: Float[np.ndarray, "W h w"]) -> Float[np.ndarray, "W H W"]:
            return np.stack([cv2.resize(x, (width, height), interpolation=cv2.INTER_CUBIC) for x in maps])

        return np.mean([enlarged(maps) for maps in self.maps.values()], axis=0)


def reads_words(loaded: Loaded) -> bool:
    """Whether `prompt_maps` can be had."""
    task = loaded.task
    return hasattr(getattr(task, "field", None), "tokenizer") and hasattr(task.model, "unet")


def prompt_maps(loaded: Loaded, prompt: str, *, seed: int = 0, **settings: Any) -> PromptMaps:
    """The first sample of a seed, that of `loaded.sample`, and what its places attended to in the prompt.

    The network sees each step once more, with its weights written out. A word of several tokens has the sum of theirs.

    Args:
        settings: of the task's `sampling`.

    Raises:
        UserError: for a checkpoint that draws no images of texts by diffusion, or see `Loaded.sample`.
    """
    if not reads_words(loaded):
        raise UserError(f"{loaded.path} draws no images of texts by diffusion", "Use one of the task text_to_image")
    chosen, conditions, keys = asked_samples(loaded, 1, [prompt], seed, settings)
    found, image = _attended(loaded.task, chosen)(loaded.variables, conditions, keys)
    words, special, first = split_words(loaded.task.field.tokenizer, np.asarray(conditions["text"][0]))
    maps = {grid: np.add.reduceat(np.asarray(x), first, axis=0) for grid, x in sorted(found.items(), reverse=True)}
    return PromptMaps(words, special, maps, as_bytes(image)[0])


@functools.lru_cache(maxsize=8)
def _attended(task: Task, settings: Any) -> Callable[..., tuple[dict[Grid, Float[Array, "L h w"]], Array]]:
    """Maps of all tokens by their grid, and the sample."""

    @jax.jit
    def run(variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray) -> tuple[Any, Array]:
        process = task.reverse_process(variables, conditions, settings)
        trail = process.trail(keys)

        def of_step(x: Array, step: Array) -> dict[Grid, Array]:
            with noted_attention(_LAYER) as noted:
                process.predict(x, step)
            # With guidance the rows that are told come last.
            return _by_grid([weights[-len(x) :] for weights in noted], process.shape[:2])

        def body(total: Any, step: tuple[Array, Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, of_step(*step)), None

        steps = trail.xt, jnp.asarray(process.noising.timesteps)[::-1]
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_step, *(x[0] for x in steps)))
        total, _ = jax.lax.scan(body, empty, steps)
        return jax.tree.map(lambda x: x / len(steps[1]), total), process.decode(trail.end)

    return run


@contextlib.contextmanager
def noted_attention(name: str) -> Iterator[list[Float[Array, "b h t s"]]]:
    """Around calls of modules while they are traced: gives a list that gets the weights of each attention layer of this
    name, in the order of the calls. What the layers compute is the same."""
    noted: list[Array] = []

    def note(method: Callable[..., Any], args: Any, how: Any, context: Any) -> Any:
        if context.module.name != name or context.method_name != "attend":
            return method(*args, **how)
        out, weights = method(*args, **{**how, "implementation": "explicit", "return_weights": True})
        noted.append(weights)
        return out

    with nn.intercept_methods(note):
        yield noted


def _by_grid(noted: list[Float[Array, "b h t s"]], size: Grid) -> dict[Grid, Float[Array, "s h w"]]:
    """The mean of all layers with the same number of places, of which levels halve both sides."""
    layers: dict[Grid, list[Array]] = {}
    for weights in noted:
        ratio = math.isqrt(math.prod(size) // weights.shape[2])
        grid = (size[0] // ratio, size[1] // ratio)
        layers.setdefault(grid, []).append(weights.mean((0, 1)).T.reshape(-1, *grid))
    return {grid: jnp.stack(some).mean(0) for grid, some in layers.items()}
