"""What evaluators have in common that let a generator go by real images, and look at what it makes of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Array, Float32, UInt8

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, Apply, EvaluationRun, PipelineFactory
from vit_jax.evaluators.clip_score import TEXT
from vit_jax.evaluators.pictures import pixels, some
from vit_jax.tasks._image_tokens import unit_range


@dataclasses.dataclass(frozen=True)
class OfImages:
    """What such evaluators have in common.

    Args:
        real: real images, at most `count` of them.
        seed: of the samples.
        settings: of the samples, see the task's `sampling`.
        told: whether samples are asked to be of the image's text, or its class where it has none.
        classes: those of the model.

    Attributes:
        gives: see `vit_jax.evaluators.Evaluator`.
    """

    real: EvalPipeline = dataclasses.field(hash=False)
    seed: int
    settings: Mapping[str, Any] = dataclasses.field(hash=False)
    told: bool
    classes: tuple[str, ...] = ()
    gives: ClassVar[tuple[str, ...]]

    @property
    def sampling(self) -> Mapping[str, Any]:
        """See `vit_jax.evaluators.Evaluator`."""
        return self.settings

    def judging(self, answers: Answers) -> Self:
        return dataclasses.replace(self, classes=tuple(answers.label_names))

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        del apply
        told = [TEXT, "label"] if self.told else []
        asked = {name: batch[name] for name in told if name in batch}
        return {"valid": batch["valid"], "image": pixels(unit_range(batch["image"])), **asked}

    def examples(self, run: EvaluationRun) -> tuple[UInt8[np.ndarray, "N H W 3"], list[str]]:
        """The images, and what a sample of each is asked to be; nothing where they are not told."""
        parts = [{k: x[part["valid"] > 0] for k, x in part.items()} for part in run(self.real)]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if TEXT in whole and TEXT in self.real.fields:
            return whole["image"], [self.real.fields[TEXT].text(ids) for ids in whole[TEXT]]
        if "label" in whole and self.classes:
            return whole["image"], [self.classes[label] for label in whole["label"]]
        if self.told:
            raise UserError("The images have neither a text nor a class", "Set told=False")
        return whole["image"], []


def signed(images: UInt8[np.ndarray, "N H W 3"]) -> Float32[np.ndarray, "N H W 3"]:
    """As tasks take images, in -1..1."""
    return Preprocess(images.shape[1:3]).normalize(images)


def asked_of_images(
    pipeline: PipelineFactory,
    source: Mapping[str, Any] | None,
    count: int,
    seed: int,
    settings: Mapping[str, Any] | None,
    told: bool,
) -> dict[str, Any]:
    """The arguments of `OfImages` from those of a config."""
    real = some(pipeline(source=source), count)
    return {"real": real, "seed": seed, "settings": dict(settings or {}), "told": told}
