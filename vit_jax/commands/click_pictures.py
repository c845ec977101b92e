"""The pictures of models that answer prompts: one click into the middle of each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vit_jax.commands.picture import Picture
from vit_jax.inspection import clicks

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from vit_jax.checkpoints.load import Loaded


def click_sections(
    loaded: Loaded, images: Mapping[Path, np.ndarray], names: Mapping[Path, str]
) -> Iterator[tuple[str, str, list[Picture]]]:
    """Title, note and pictures of each image.

    Args:
        images: as the model sees them, uint8.
        names: of the files of each image's pictures.
    """
    for path, image in images.items():
        point = (image.shape[1] / 2, image.shape[0] / 2)
        ask = loaded.prompted(image)
        answers = clicks.answers_figure(image, ask(points=[point]), point)
        attention = clicks.attention_figure(image, clicks.click_attention(loaded, ask, point))
        yield (
            f"A click into {path.name}",
            "",
            [
                Picture(
                    f"{names[path]}_click",
                    answers,
                    "What a click into the middle may mean: the model's answers, the one first that it thinks best. "
                    "Where an object has parts, those of a trained model are a part, more of them, and the whole.",
                ),
                Picture(
                    f"{names[path]}_click_tokens",
                    attention,
                    "Where the decoder's tokens look in the image at its end, a mean over the heads. Masks 1 to 3 are "
                    "those of one click, mask 0 is for several prompts.",
                ),
            ],
        )
