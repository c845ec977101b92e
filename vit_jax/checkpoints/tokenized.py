"""Texts and images as a model takes them: rows of a batch as evaluation makes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from vit_jax.data.fields import Fields
from vit_jax.errors import UserError


def tokenized(fields: Fields, texts: Sequence[str], path: object) -> dict[str, Shaped[np.ndarray, "N L"]]:
    """The arrays of the one field of texts: its ids, which of them are no padding, and what else it has.

    Args:
        path: of the checkpoint, for the error.

    Raises:
        UserError: there is no such field, or several; or there are no texts.
    """
    names = [name for name, kind in fields.items() if kind.is_text]
    if len(names) != 1:
        count = f"reads {len(names)} fields of texts" if names else "reads no texts"
        raise UserError(f"{path} {count}", "Load a model of images and texts, or of texts alone")
    if not len(texts):
        raise UserError("There are no texts to tokenize", "Give one at least")
    [name] = names
    rows = [fields[name].batched(name, fields[name].read(text, f"text {i}", None)) for i, text in enumerate(texts, 1)]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0] if key != f"{name}_cut"}


def image_rows(fields: Fields, images: Sequence[Any]) -> dict[str, Shaped[np.ndarray, "N ..."]]:
    """The arrays of the field "image", and what it has beside them.

    Args:
        images: paths, bytes, or what `vit_jax.data.pixels.as_rgb` takes; of bands, paths, bytes or arrays [H, W, C].

    Raises:
        UserError: an image that cannot be read.
    """

    def row(image: Any) -> dict[str, Any]:
        return fields.batched(fields.evaluated({"image": fields["image"].given(image)}))

    rows = [row(image) for image in images]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
