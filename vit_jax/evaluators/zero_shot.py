"""Zero-shot classification: labelled images against texts that name the classes.

Radford et al., "Learning transferable visual models from natural language supervision" (arXiv:2103.00020), section 3.1:
each class is the mean of the embeddings of its name in all templates, each of length 1, made of length 1 again. With
`hierarchy` also CHiLS (Novack et al., arXiv:2302.02551), in three arms: the classes directly, the most likely subclass
mapped up to its class, and the same with each subclass's probability multiplied by its class's.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vit_jax.data.label_set import ensembled, labels_for, subclasses
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.classification_files import class_table
from vit_jax.evaluators.image_text import IMAGE, TEXT, Texts, blocks, checked, images_alone, texts_alone
from vit_jax.nn.subclasses import mapped_up


def _judged(
    scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """How many classes are ahead of each label, of equal scores the one that comes first, and which is first of all."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(axis=1), scores.argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class ZeroShotAccuracy:
    """Accuracies of classes that are texts.

    `accuracy`, `top5_accuracy` (of six classes or more, else of the largest K - 1), `balanced_accuracy` (the mean over
    the classes that have examples) and the number of `examples`. With subclasses also `mapped_up_accuracy`,
    `reweighted_accuracy` and their balanced ones. Files: `per_class.csv`, and such a table of each arm.

    Args:
        images: with a label each.
        prompts, finer: of the classes, and of the subclasses where there are any; the label is the class.
        classes: their names.
        parents: of each subclass the number of its class.
    """

    images: EvalPipeline = dataclasses.field(hash=False)
    prompts: EvalPipeline = dataclasses.field(hash=False)
    classes: tuple[str, ...]
    finer: EvalPipeline | None = dataclasses.field(default=None, hash=False)
    parents: tuple[int, ...] = ()

    @property
    def features(self) -> dict[str, str]:
        return {"images": IMAGE, "prompts": TEXT, "finer": TEXT}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        count = len(self.classes)
        images, labels = checked(run.features(self.images, IMAGE))
        if labels.ndim != 1:
            raise UserError("The evaluation data has several labels an image", "Use a source with one label an image")
        coarse = ensembled(*checked(run.features(self.prompts, TEXT)), count)
        judged = {"": [_judged(scores, labels[i : i + len(scores)]) for i, scores in blocks(images, coarse)]}
        if self.finer is not None:
            finer = ensembled(*checked(run.features(self.finer, TEXT)), len(self.parents))
            judged |= {"mapped_up_": [], "reweighted_": []}
            for (i, below), (_, above) in zip(blocks(images, finer), blocks(images, coarse), strict=True):
                own = labels[i : i + len(below)]
                up = np.asarray(mapped_up(below, self.parents, count))
                judged["mapped_up_"].append(_judged(up, own))
                # The product of two softmaxes over cosines times one factor has the order of the cosines' sum: their
                # denominators are the same for all classes of an image.
                judged["reweighted_"].append(_judged(up + above, own))
        found: dict[str, float] = {}
        for arm, parts in judged.items():
            found |= self._accuracies(run, arm, labels, *(np.concatenate(some) for some in zip(*parts, strict=True)))
        return {**found, "examples": len(labels)}

    def _accuracies(
        self,
        run: EvaluationRun,
        arm: str,
        labels: Int[np.ndarray, " N"],
        ranks: Int[np.ndarray, " N"],
        answers: Int[np.ndarray, " N"],
    ) -> dict[str, float]:
        count, right = len(self.classes), ranks == 0
        examples, correct, answered = (np.bincount(some, minlength=count) for some in (labels, labels[right], answers))
        run.keep(f"{arm}per_class.csv", functools.partial(class_table, self.classes, examples, correct, answered))
        seen, among = examples > 0, min(5, count - 1)
        found = {f"{arm}accuracy": right.mean(), f"{arm}balanced_accuracy": (correct[seen] / examples[seen]).mean()}
        if not arm and among > 1:
            found[f"top{among}_accuracy"] = (ranks < among).mean()
        return found


def build(
    pipeline: PipelineFactory,
    source: Mapping[str, Any] | None = None,
    names: str | Sequence[str] | Mapping[str, Any] | None = None,
    templates: str | Sequence[str] | None = None,
    hierarchy: str | Mapping[str, Sequence[str]] | None = None,
    joined: bool = False,
) -> ZeroShotAccuracy:
    """Classifies the images of `source`, or of the config's `data.eval`, by its classes' names.

    Args:
        source: section of a source of images with labels.
        names: what its classes are called, see `vit_jax.data.label_set.labels_for`; None for the source's own names.
        templates: see `vit_jax.data.prompts.templates_of`; None for those of the set that `names` names, and for
            "photo" otherwise.
        hierarchy: {class: [subclasses]}, or a .json file with it.
        joined: whether subclasses are called "{sub} {super}", see `vit_jax.data.label_set.subclasses`.

    Raises:
        UserError: for a source without names of classes, names or a hierarchy that do not fit it, and data without
            texts.
    """
    data = pipeline(source=source)
    known = labels_for(data.source.label_names, names, templates)
    prompts = texts_alone(data, Texts(*zip(*known.prompts, strict=True)))
    images = images_alone(data, data.source)
    if hierarchy is None:
        return ZeroShotAccuracy(images, prompts, known.labels)
    below = subclasses(known, hierarchy, joined)
    finer = texts_alone(data, Texts(*zip(*below.finer.prompts, strict=True)))
    return ZeroShotAccuracy(images, prompts, known.labels, finer, below.parents)
