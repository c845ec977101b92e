"""Whether images show what they were asked to show, by a model of images and texts.

Hessel et al., "CLIPScore: a reference-free evaluation metric for image captioning" (arXiv:2104.08718).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from vit_jax.checkpoints.load import Loaded, load
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, EvaluationRun, PipelineFactory
from vit_jax.evaluators.features import digest
from vit_jax.evaluators.pictures import SAMPLES, OfPictures, Pictures, asked
from vit_jax.ranges import Count, Natural

TEXT = "text"


@functools.lru_cache(maxsize=1)
def two_towers(path: str) -> Loaded:
    """A model of images and texts.

    Raises:
        UserError: for another model.
    """
    loaded = load(path)
    loaded.check_two_towers()
    return loaded


def clip_score(images: Float[np.ndarray, "N E"], texts: Float[np.ndarray, "N E"]) -> float:
    """A hundred times the mean of the cosines of embeddings of length 1, of which negative ones count as 0."""
    cosines = (images.astype(np.float64) * texts).sum(axis=1)
    return float(100 * np.maximum(cosines, 0).mean())


@dataclasses.dataclass(frozen=True)
class ClipScore(OfPictures):
    """`score(clip@sha)` of the samples and the texts that they were asked for, and `exchanged`, each with the next of
    the other texts: what is not above that follows no text. Where all have the same text there is no `exchanged`. See
    `OfPictures` for the other arguments.

    Args:
        clip: path of a model of images and texts.
        template: what a class is asked for by, with {} for its name.
        classes: of the labels; those of the model.
    """

    clip: str
    template: str
    classes: tuple[str, ...] = ()

    def judging(self, answers: Answers) -> "ClipScore":
        return dataclasses.replace(self, classes=tuple(answers.label_names))

    def check(self) -> None:
        two_towers(self.clip)

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        by, pictures = two_towers(self.clip), self.pictures(run)
        texts = self._texts(pictures)
        different = list(dict.fromkeys(texts))
        number = {text: i for i, text in enumerate(different)}
        which = np.array([number[text] for text in texts])
        embedded, images = by.embed_texts(different), by.embed_images(list(pictures.made))
        name = f"score({epath.Path(self.clip).name}@{digest(by.variables)[:8]})"
        found = {name: clip_score(images, embedded[which])}
        if len(different) > 1:
            found["exchanged"] = clip_score(images, embedded[which - 1])
        return found

    def _texts(self, pictures: Pictures) -> Sequence[str]:
        asked_for = pictures.conditions
        if TEXT in asked_for and TEXT in self.real.fields:
            return [self.real.fields[TEXT].text(ids) for ids in asked_for[TEXT]]
        if "label" in asked_for and self.classes:
            return [self.template.format(self.classes[label]) for label in asked_for["label"]]
        raise UserError("The samples were asked for no text and for no class", "Score those of a generator that was")


def build(
    pipeline: PipelineFactory,
    *,
    clip: str,
    source: Mapping[str, Any] | None = None,
    count: Count = 2000,
    seed: Natural = 0,
    settings: Mapping[str, Any] | None = None,
    template: str = "a photo of a {}.",
) -> ClipScore:
    """Of samples; `source` says what texts are, as the config's `data.eval` does."""
    if "{}" not in template:
        raise UserError(f"The template {template!r} has no place for a class", "Write {} where its name is to be")
    return ClipScore(**asked(pipeline, source, SAMPLES, count, seed, settings), clip=clip, template=template)
