"""Few-shot linear probe in closed form, as big_vision's `fewshot_lsr` defines it.

The few-shot accuracies of the ViT paper (section 3, "Datasets") are least-squares fits of frozen features to targets
of -1 and 1. Here, to the letter of the public protocol: k examples a class drawn by a seeded permutation, features
standardised with the mean and deviation of these few examples, a constant feature for the bias, an L2 penalty that is
fixed and not swept; of a class with fewer than k examples all of them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.ranges import Count, Positive

BIAS = 100.0  # the constant feature; so large that its weight is practically unregularised
L2 = 2.0**10


def ridge(features: Float[np.ndarray, "N D"], targets: Float[np.ndarray, "N K"], l2: float) -> Float[np.ndarray, "D K"]:
    """(X'X + l2 I)^-1 X'Y, through whichever of the two Gram matrices is smaller."""
    n, d = features.shape
    if n >= d:
        return np.linalg.solve(features.T @ features + l2 * np.eye(d), features.T @ targets)
    return features.T @ np.linalg.solve(features @ features.T + l2 * np.eye(n), targets)


def fewshot_accuracy(
    train: tuple[Float[np.ndarray, "N D"], Int[np.ndarray, " N"]],
    test: tuple[Float[np.ndarray, "M D"], Int[np.ndarray, " M"]],
    shots: int,
    seed: int,
    l2: float = L2,
) -> float:
    """Test accuracy of a probe on `shots` training examples a class, or on all of a class that has fewer."""
    (features, labels), (test_features, test_labels) = train, test
    classes = np.unique(labels)
    rng = np.random.default_rng(seed)
    picked = []
    for label in classes:
        picked.append(rng.permutation(np.flatnonzero(labels == label))[:shots])
    index = np.concatenate(picked)
    few, few_labels = features[index].astype(np.float64), labels[index]
    mean, std = few.mean(axis=0), few.std(axis=0) + 1e-5

    def standardise(x: np.ndarray) -> np.ndarray:
        return np.pad((x - mean) / std, ((0, 0), (0, 1)), constant_values=BIAS)

    targets = 2.0 * (few_labels[:, None] == classes) - 1.0
    weights = ridge(standardise(few), targets, l2)
    predicted = classes[(standardise(test_features.astype(np.float64)) @ weights).argmax(axis=1)]
    return float((predicted == test_labels).mean())


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Mean accuracy over seeds for each number of shots, and its standard deviation.

    Args:
        train, test: pipelines; classes are those of `train`.
        features: a task output, or 'pixels' for the preprocessed image itself as the baseline.
    """

    train: EvalPipeline = dataclasses.field(hash=False)
    test: EvalPipeline = dataclasses.field(hash=False)
    features: str
    shots: tuple[int, ...]
    seeds: int
    l2: float

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        train, test = (run.features(pipeline, self.features) for pipeline in (self.train, self.test))
        metrics = {}
        for k in self.shots:
            accuracies = [fewshot_accuracy(train, test, k, seed, self.l2) for seed in range(self.seeds)]
            metrics[f"{k}shot"] = float(np.mean(accuracies))
            metrics[f"{k}shot_std"] = float(np.std(accuracies))
        return metrics


def build(
    pipeline: PipelineFactory,
    *,
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    transform: Mapping[str, Any] | None = None,
    features: str = "features",
    shots: Sequence[Count] = (1, 5, 10, 25),
    seeds: Count = 3,
    l2: Positive = L2,
) -> FewShot:
    """A probe from two source sections; `transform` augments both, seeded, where the task is to see through that."""
    return FewShot(
        train=pipeline(source=train, transform=transform, seed=0),
        test=pipeline(source=test, transform=transform, seed=1),
        features=features,
        shots=tuple(shots),
        seeds=seeds,
        l2=l2,
    )
