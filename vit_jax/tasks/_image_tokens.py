"""What tasks have in common that generate images as tokens of a tokenizer that stays as it is."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from vit_jax.errors import UserError
from vit_jax.naming import build_model
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer
from vit_jax.tasks import Batch, DataInfo, Picture, Task, Variables
from vit_jax.tasks._class_conditions import ClassConditions

TOKENIZER = "tokenizer"


@dataclasses.dataclass(frozen=True)
class TokenGenerator(ClassConditions, Task):
    """Images of classes, as tokens; `params["tokenizer"]` is frozen and loaded, the rest is the model's.

    A batch has `image` float [B, H, W, 3] in -1..1, or what the tokenizer makes of it, `indices` int32 [B, T] or
    `latents` float [B, h, w, D]; and `label` int32 [B], where there are classes.

    Args:
        model: the generator.
        model_spec: what rebuilds it from a checkpoint.
        tokenizer: see `vit_jax.nn.image_tokenizer`.
        image_size: height and width in pixels.
        classes: names of the classes; () for a generator that knows none. Class number K is the null class, which
            stands for no condition.
        label_drop: share of training examples that are shown as the null class.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    tokenizer: ImageTokenizer
    image_size: Grid
    classes: tuple[str, ...] = ()
    label_drop: float = 0.1
    takes: ClassVar[tuple[str, ...]] = ("indices",)
    locked_when_loaded: ClassVar[tuple[str, ...]] = (TOKENIZER,)
    answered_by: ClassVar[tuple[str, ...]] = ("samples",)

    @property
    def _grids(self) -> tuple[Grid, ...]:
        return self.tokenizer.grids(self.image_size)

    @property
    def _count(self) -> int:
        """Tokens of an image."""
        return sum(rows * columns for rows, columns in self._grids)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh ones by the model's own ways, `example_inputs` and `redrawn`, and those of the tokenizer."""
        del batch
        own, redrawing, tokenizing = jax.random.split(rng, 3)
        params = self.model.init(own, *self.model.example_inputs(None))["params"]
        variables = {"params": self.model.redrawn(params, redrawing), "model_state": {}}
        return self._with_tokenizer(tokenizing, variables)

    def _with_tokenizer(self, rng: PRNGKeyArray, variables: Variables) -> Variables:
        """Fresh variables of the model, and below "tokenizer" those of the tokenizer."""
        images = jnp.zeros((1, *self.image_size, 3))
        fresh = dict(self.tokenizer.init({"params": rng}, images))
        params = {**variables["params"], TOKENIZER: fresh.pop("params")}
        state = dict(variables["model_state"])
        for kind, tree in fresh.items():
            state[kind] = {**state.get(kind, {}), TOKENIZER: tree}
        return {"params": params, "model_state": state}

    def _own(self, variables: Variables) -> dict[str, Any]:
        """The collections of the model alone, as `apply` takes them."""
        state = {k: {n: x for n, x in tree.items() if n != TOKENIZER} for k, tree in variables["model_state"].items()}
        params = {name: tree for name, tree in variables["params"].items() if name != TOKENIZER}
        return {"params": params, **{kind: tree for kind, tree in state.items() if tree}}

    def _tokenizing(self, variables: Variables, *args: Any, method: str) -> Array:
        """A method of the tokenizer, through which no gradient goes."""
        state = {k: tree[TOKENIZER] for k, tree in variables["model_state"].items() if TOKENIZER in tree}
        collections = jax.lax.stop_gradient({"params": variables["params"][TOKENIZER], **state})
        return self.tokenizer.apply(collections, *args, method=method)

    def _indices(self, variables: Variables, batch: Batch) -> Int[Array, "B T"]:
        """Tokens of a batch: those in it, or the tokenizer's of its images."""
        if "indices" in batch:
            return batch["indices"].astype(jnp.int32)
        return self._tokenizing(variables, batch["image"], method="tokenize")

    def _latents(self, variables: Variables, batch: Batch) -> Float[Array, "B h w D"]:
        """The same of continuous tokens."""
        if "latents" in batch:
            return batch["latents"].astype(jnp.float32)
        return jax.lax.stop_gradient(self._tokenizing(variables, batch["image"], method="encode"))

    def _pixels(self, variables: Variables, indices: Int[Array, "B T"]) -> Float[Array, "B H W 3"]:
        """Images in 0..1 of tokens."""
        return unit_range(self._tokenizing(variables, indices, self._grids, method="detokenize"))

    def sampling_costs(self, settings: Any) -> dict[str, int]:
        """The tokens of an image; who knows more says more."""
        del settings
        return {"tokens": self._count}


def repainting_pictures(size: Grid) -> dict[str, Picture]:
    """What a generator takes that draws a part of an image anew."""
    return {"image": Picture("image", size), "mask": Picture("mask", size)}


def unit_range(images: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Images in -1..1, which may leave it a little, as values from 0 to 1."""
    return jnp.clip(images.astype(jnp.float32) * 0.5 + 0.5, 0, 1)


def cache_bytes(new_cache: Callable[[], PyTree]) -> int:
    """What the cache that a function makes takes; nothing is made."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(new_cache)))


def masked_tokens(mask: Float[Array, "B H W 1"], grids: tuple[Grid, ...]) -> Bool[Array, "B T"]:
    """Of each token whether a pixel of its place is to be new, which the mask has 1 for.

    Raises:
        UserError: where the pixels do not divide into places.
    """
    found = []
    for rows, columns in grids:
        height, width = mask.shape[1:3]
        if height % rows or width % columns:
            raise UserError(
                f"A mask of {height}x{width} pixels does not divide into {rows}x{columns} places",
                "Use a tokenizer whose places are whole pixels",
            )
        places = (mask > 0.5).reshape(-1, rows, height // rows, columns, width // columns)
        found.append(places.any(axis=(2, 4)).reshape(len(mask), -1))
    return jnp.concatenate(found, axis=1)


def tokenizer_of(section: Mapping[str, Any], data: DataInfo) -> tuple[ImageTokenizer, Grid]:
    """The tokenizer that a task's section names, and the size of the images that it is for.

    Raises:
        UserError: for a model that is none, or data without images or size.
    """
    module = build_model(section)[0]
    if not isinstance(module, ImageTokenizer):
        raise UserError(
            f"The model {section.get('name')!r} makes no tokens of images", "Name a tokenizer, such as vqvae"
        )
    if data.image_size is None:
        raise UserError("The data says no size of images", "Set config.data.image_size")
    return module, tuple(data.image_size)
