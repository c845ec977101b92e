"""ImageNet-C: the error under each corruption, and its mean beside AlexNet's.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations"
(arXiv:1903.12261), section 4.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vit_jax.data.fields import Fields
from vit_jax.data.files import from_here
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, Apply, EvaluationRun, PipelineFactory
from vit_jax.evaluators.classification_files import csv_bytes

SEVERITIES = (1, 2, 3, 4, 5)
# AlexNet's error under each, the mean over the severities: what the paper's code divides by.
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.92264, "defocus_blur": 0.81988,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.79836, "snow": 0.866816, "frost": 0.826572,
    "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.71784,
    "jpeg_compression": 0.6065,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Corruptions:
    """Shares of wrong answers: `gaussian_noise` and so on, each the mean over its five severities; `error`, the mean of
    the corruptions that are there; and `mce`, the mean corruption error, where all fifteen are: the mean of each error
    divided by AlexNet's. 1 is as bad as AlexNet; papers give it in percent.

    The set's images were cropped to 224 pixels when it was made, so a model sees them whole, whatever its preprocessing
    crops from other images.

    File: `corruptions.csv`, the error at each severity.

    Args:
        pipeline: of the first corruption and severity.
        make: what makes the others, each when it is its turn: their lists of files are long.
        folders: of each corruption.
        label_names: the model's classes, once they are known.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    make: PipelineFactory = dataclasses.field(hash=False)
    folders: Mapping[str, str] = dataclasses.field(hash=False)
    label_names: tuple[str, ...] = ()

    def judging(self, answers: Answers) -> "Corruptions":
        pipeline = _whole(self.pipeline.with_classes(answers.label_names))
        return dataclasses.replace(self, pipeline=pipeline, label_names=answers.label_names)

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        wrong = apply(batch, ("logits",))["logits"].argmax(axis=1) != batch["label"]
        return {"wrong": (wrong * batch["valid"]).sum(), "examples": jnp.sum(batch["valid"])}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        errors: dict[str, list[float]] = {}
        for name, folder in self.folders.items():
            errors[name] = []
            for severity in SEVERITIES:
                pipeline = self.pipeline
                if (name, severity) != (next(iter(self.folders)), SEVERITIES[0]):
                    pipeline = _whole(self.make(source=_source(folder, severity)).with_classes(self.label_names))
                parts = list(run(pipeline))
                errors[name].append(sum(p["wrong"] for p in parts) / sum(p["examples"] for p in parts))
        run.keep("corruptions.csv", functools.partial(_table, errors))
        means = {name: float(np.mean(values)) for name, values in errors.items()}
        found = {**means, "error": float(np.mean(list(means.values())))}
        if set(means) == set(ALEXNET):
            found["mce"] = float(np.mean([means[name] / error for name, error in ALEXNET.items()]))
        return found


def build(pipeline: PipelineFactory, root: str) -> Corruptions:
    """Evaluates on ImageNet-C as it unpacks: root/CORRUPTION/SEVERITY/SYNSET/*, or with the archives' folders between,
    as in root/noise/gaussian_noise/1/n01440764/*.

    Raises:
        UserError: when there is no such folder, or a severity of a corruption is missing.
    """
    root = os.path.expanduser(root)
    beside = sorted(os.listdir(root)) if os.path.isdir(root) else []
    places = [root, *(os.path.join(root, name) for name in beside)]
    folders = {
        name: os.path.join(place, name) for name in ALEXNET for place in reversed(places)
        if os.path.isdir(os.path.join(place, name))
    }  # fmt: skip
    if not folders:
        raise UserError(
            f"{from_here(root)} holds no corruption of ImageNet-C, such as gaussian_noise/1/n01440764",
            "Unpack its archives there",
        )
    for folder in folders.values():
        for severity in SEVERITIES:
            if not os.path.isdir(os.path.join(folder, str(severity))):
                raise UserError(f"{folder} has no severity {severity}", "Unpack its archive again")
    return Corruptions(pipeline(source=_source(next(iter(folders.values())), SEVERITIES[0])), pipeline, folders)


def _whole(pipeline: EvalPipeline) -> EvalPipeline:
    """With images that are resized and not cropped."""
    image = pipeline.fields["image"]
    if image.preprocess is None or image.preprocess.resize == "pad":
        return pipeline
    whole = dataclasses.replace(image, preprocess=dataclasses.replace(image.preprocess, resize_to=None))
    kinds = {**pipeline.fields.kinds, "image": whole}
    return pipeline.over(pipeline.source, Fields(kinds, pipeline.fields.explicit), None)


def _source(folder: str, severity: int) -> dict[str, str]:
    return {"name": "imagenet", "root": os.path.join(folder, str(severity)), "split": "all"}


def _table(errors: Mapping[str, list[float]]) -> bytes:
    rows = ([name, *(f"{error:.6f}" for error in values)] for name, values in errors.items())
    return csv_bytes(["corruption", *(f"severity {k}" for k in SEVERITIES)], rows)
