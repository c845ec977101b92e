"""The part of `vit_jax visualize` that is about images and texts together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.commands.picture import Picture
from vit_jax.inspection.pair_figures import similarity_matrix_figure

if TYPE_CHECKING:
    from vit_jax.checkpoints.load import Loaded

_AT_ONCE = 32


def pair_sections(
    loaded: Loaded, images: Mapping[Path, np.ndarray], texts: Sequence[str]
) -> Iterator[tuple[str, str, list[Picture]]]:
    """Title, note and pictures: how similar the model finds each image and each text.

    Args:
        images: uint8, as the model sees them.

    Raises:
        UserError: for a checkpoint that does not compare images with texts.
    """
    loaded.check_two_towers()
    pixels = list(images.values())
    prepared = np.stack([loaded.preprocess.normalize(image) for image in pixels])
    cosines = loaded.embed_images(prepared, _AT_ONCE) @ loaded.embed_texts(list(texts), _AT_ONCE).T
    yield (
        "Images and texts",
        "",
        [
            Picture(
                "similarity",
                similarity_matrix_figure(pixels, texts, cosines),
                "A row an image, a column a text: the cosine of the angle between their embeddings, the largest of "
                "each row in bold. Compare within a row or a column: the numbers of another model may all be smaller "
                "and its order better. Where text i belongs to image i, look for a bright diagonal.",
            )
        ],
    )
