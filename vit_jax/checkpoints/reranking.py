"""The best of several samples for a text, as a model of images and texts judges them: how DALL-E's are chosen
(arXiv:2102.12092, section 2.6, with CLIP)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vit_jax.checkpoints.load import Loaded
from vit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The samples for one text, the best one first.

    Args:
        images: of which so many were asked for.
        scores: cosines of each with the text.
        numbers: which of the samples each is.
    """

    images: list[UInt8[np.ndarray, "H W 3"]]
    scores: Float32[np.ndarray, " kept"]
    numbers: tuple[int, ...]


def best_samples(
    generator: Loaded,
    judge: Loaded,
    prompts: Sequence[str],
    *,
    samples: int = 32,
    keep: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    **settings: Any,
) -> list[Ranking]:
    """Draws so many samples for each text and ranks them.

    Args:
        judge: a model with images and texts in one space, such as CLIP.
        samples: of each text; the paper has 512.
        keep: how many of them are given; None for all.
        others: see `Loaded.generate`.

    Raises:
        UserError: for a judge of another kind, or a generator of no images.
    """
    judge.check_two_towers()
    if keep is not None and not 1 <= keep <= samples:
        raise UserError(f"{keep} of {samples} samples cannot be kept", f"Keep from 1 to {samples}")
    drawn = generator.generate(prompts, samples=samples, seed=seed, batch_size=batch_size, **settings)
    texts, found = judge.embed_texts(list(prompts), batch_size), []
    for text, images in zip(texts, drawn, strict=True):
        if not all(isinstance(image, np.ndarray) for image in images):
            raise UserError("What this generator draws are no images", "Use a generator of images of texts")
        scores = judge.embed_images(images, batch_size) @ text
        order = np.argsort(-scores, kind="stable")[:keep]
        found.append(Ranking([images[i] for i in order], scores[order], tuple(int(i) for i in order)))
    return found
