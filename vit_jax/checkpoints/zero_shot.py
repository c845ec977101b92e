"""Classes in words for a model of images and texts: what `Loaded.zero_shot` is made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float32

from vit_jax.data.fields import Fields
from vit_jax.data.fields.classes import Classes
from vit_jax.data.label_set import LabelSet, ensembled, label_set, subclasses
from vit_jax.errors import UserError
from vit_jax.tasks import Task
from vit_jax.tasks.zero_shot import ZeroShot

EmbedTexts = Callable[[Sequence[str]], Float32[np.ndarray, "N E"]]


class Classifier(NamedTuple):
    """A task, what it takes beside the parameters, and its fields."""

    task: ZeroShot
    classes: dict[str, Float32[Array, "K E"]]
    fields: Fields


def classifier(
    task: Task,
    fields: Fields,
    embed_texts: EmbedTexts,
    labels: str | Sequence[str] | Mapping[str, Any],
    templates: str | Sequence[str] | None,
    hierarchy: str | Mapping[str, Sequence[str]] | None,
    joined: bool,
    reweighted: bool,
) -> Classifier:
    """See `vit_jax.checkpoints.load.Loaded.zero_shot`.

    Args:
        task: of a checkpoint of images and texts.
        fields: its data's.
        embed_texts: what makes vectors of length 1 of texts.
    """
    coarse = label_set(labels, templates)
    classes, parents = {"text_embedding": _embedded(coarse, embed_texts)}, None
    if hierarchy is not None:
        found = subclasses(coarse, hierarchy, joined)
        classes["finer_embedding"], parents = _embedded(found.finer, embed_texts), found.parents
    # Weighted by a softmax, what comes of it is one too.
    objective = "softmax" if parents is not None and reweighted else task.objective
    made = ZeroShot(task, task.model, coarse.labels, objective, parents, reweighted)
    return Classifier(made, classes, Fields({**fields, "label": Classes(len(coarse.labels), names=coarse.labels)}))


def check_two_towers(task: Task, fields: Fields, path: epath.PathLike) -> None:
    """Refuses a checkpoint that does not have images and texts in one space.

    Raises:
        UserError: says which it is.
    """
    if not hasattr(task.model, "similarity") or not {"image", "text"} <= set(fields):
        raise UserError(f"{path} does not compare images with texts", "Use a checkpoint of CLIP, SigLIP or LiT")


def _embedded(labels: LabelSet, embed_texts: EmbedTexts) -> Float32[Array, "K E"]:
    """The embedding of each class, of length 1: the mean of its prompts'."""
    prompts = labels.prompts
    rows = embed_texts([text for text, _ in prompts])
    return jnp.asarray(ensembled(np.asarray(rows), np.array([i for _, i in prompts]), len(labels.labels)))
