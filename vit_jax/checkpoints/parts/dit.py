"""What the families of DiT have in common: sizes, modulation, and what the file is for."""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import Entry, Shapes, linear, same, shape_of
from vit_jax.checkpoints.parts import autoencoder, diffusers_scheduler, vit
from vit_jax.checkpoints.published import Published
from vit_jax.models.dit import VARIANTS
from vit_jax.models.vit_variants import Variant

LABEL_DROP = 0.1  # of training, wherever there is a null class


def kwargs_of(tensors: Shapes, patches: str, depth: int, mlp: str, head: str, heads: int | None) -> dict[str, Any]:
    """Arguments of `vit_jax.models.dit.build` that shapes say.

    Args:
        patches: name of the weight that embeds patches.
        mlp: of the first one of a block's MLP.
        head: of the last one of all.
        heads: number of attention heads, where it is known.
    """
    width, inputs, *patch = shape_of(tensors, patches, 4)
    size = Variant(width, depth, shape_of(tensors, mlp, 2)[0], heads or vit.heads_of(width))
    kwargs = vit.size_kwargs(size, patch, VARIANTS)
    return kwargs | {"inputs": inputs, "outputs": shape_of(tensors, head, 2)[0] // math.prod(patch)}


def modulation(ours: str, theirs: str, width: int, parts: int) -> list[Entry]:
    """A linear layer that makes several vectors."""
    return [
        linear(f"{ours}/kernel", f"{theirs}.weight", (width, parts, width), out_axes=2),
        same(f"{ours}/bias", f"{theirs}.bias", (parts, width), (parts * width,)),
    ]


def published(
    kwargs: Mapping[str, Any],
    side: int,
    layout: Mapping[str, Any],
    *remarks: str,
    scheduler: JsonObject | None = None,
) -> Published:
    """A model of pixels is one of the task `ddpm`; one of latents stands by itself, its autoencoder is elsewhere.

    Args:
        side: of what it was trained on.
        scheduler: the file of diffusers that says the noise.
    """
    if kwargs["inputs"] != 3:
        return Published("dit", kwargs, None, layout, (), remarks, task={"name": "features", "kwargs": {}})
    labels = tuple(f"class {i}" for i in range(kwargs["num_classes"] - 1))
    noise, more = diffusers_scheduler.said_of_pixels(scheduler or JsonObject(), kwargs["outputs"] == 6)
    said, remarks = {"conditional": bool(labels), "label_drop": LABEL_DROP, **noise}, (*remarks, *more)
    task = {"name": "ddpm", "kwargs": said, "given": ["inputs", "outputs", "num_classes"]}
    preprocess = autoencoder.pixels() | {"image_size": [side, side]}
    return Published("dit", kwargs, preprocess, layout, labels, remarks, task=task)
