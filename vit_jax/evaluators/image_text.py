"""The two sides of data of images and texts, each by itself, as evaluators embed them."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vit_jax.data.field import Field
from vit_jax.data.fields import Fields
from vit_jax.data.fields.classes import Classes
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.source import Source
from vit_jax.errors import UserError
from vit_jax.evaluators.features import Labelled

IMAGE, TEXT = "image_embedding", "text_embedding"

BLOCK = 256  # rows at a time whose similarities to everything on the other side are in memory at once


class Texts:
    """Texts as a source, each with a number: the class that it describes, or the image that it belongs to."""

    label_names = ()
    in_memory = True
    field_names = frozenset({"text", "label"})

    def __init__(self, texts: Sequence[str], numbers: Sequence[int]):
        self._texts, self._numbers = tuple(texts), tuple(numbers)

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"text": self._texts[index], "label": self._numbers[index], "path": repr(self._texts[index])}


def text_field(data: EvalPipeline) -> Field:
    """How the data reads texts.

    Raises:
        UserError: for data that has no field "text" beside the image.
    """
    if not {"image", "text"} <= set(data.fields):
        raise UserError(
            "Images are compared with texts by a model of both, which this data is not for",
            "Use the checkpoint and the fields of CLIP, SigLIP or LiT",
        )
    return data.fields["text"]


def texts_alone(data: EvalPipeline, texts: Texts) -> EvalPipeline:
    """Texts of an evaluator's own, read as those of the data."""
    kind = text_field(data)
    every = [texts[i] for i in range(len(texts))]
    description = json.dumps([[one["text"], one["label"]] for one in every] + [kind.to_json()], default=str)
    return data.over(texts, Fields({"text": kind, "label": Classes()}), description)


def images_alone(data: EvalPipeline, source: Source) -> EvalPipeline:
    """The images of the data's source, whose labels are those of `source`: the same examples, or a view of them."""
    fields = Fields({"image": data.fields["image"], "label": Classes()})
    description = None if data.description is None else f"{data.description} {type(source).__name__} image label"
    return data.over(source, fields, description)


def checked(embeddings: Labelled) -> Labelled:
    """The embeddings, if all are finite: what is not a number has no place in a ranking.

    Raises:
        UserError: for others.
    """
    if not np.isfinite(embeddings[0]).all():
        raise UserError("The embeddings are not finite", "Check the checkpoint: its training may have diverged")
    return embeddings


def blocks(rows: Float[np.ndarray, "N E"], others: Float[np.ndarray, "M E"]) -> Any:
    """The similarities of some rows at a time to all others, with where they begin: (start, [b, M])."""
    for start in range(0, len(rows), BLOCK):
        yield start, rows[start : start + BLOCK] @ others.T
