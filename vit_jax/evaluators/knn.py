"""Weighted nearest neighbours on frozen features.

The protocol of "Unsupervised feature learning via non-parametric instance discrimination" (arXiv:1805.01978,
section 3.4), which DINO took over: cosine similarity s, and a vote of exp(s / 0.07) for each of the k nearest.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.features import Labelled
from vit_jax.ranges import Count, Positive

TEMPERATURE = 0.07
_BLOCK = 256  # test examples at a time: their similarities to all training examples are in memory at once


@functools.partial(jax.jit, static_argnums=(3, 4))
def _votes(
    queries: Float[Array, "B D"], train: Float[Array, "N D"], classes: Int[Array, " N"], k: int, num_classes: int,
    temperature: float,
) -> Float[Array, "B K"]:  # fmt: skip
    found = jax.lax.top_k(jnp.matmul(queries, train.T, precision="highest"), k)
    # The slice below would reach into the top_k, which XLA on CPUs then does by sorting whole rows, 35 times as slow.
    similarities, nearest = jax.lax.optimization_barrier(found)
    # Relative to the nearest one: the winner is the same, and exp(1 / temperature) cannot overflow.
    weights = jnp.exp((similarities - similarities[:, :1]) / temperature)
    return jnp.einsum("bk,bkc->bc", weights, jax.nn.one_hot(classes[nearest], num_classes))


def knn_accuracy(train: Labelled, test: Labelled, k: int, temperature: float = TEMPERATURE) -> float:
    """The share of test examples whose class wins the vote of their k nearest training examples.

    Raises:
        UserError: when there are fewer than k training examples.
    """
    (features, labels), (test_features, test_labels) = train, test
    if not 1 <= k <= len(features):
        raise UserError(f"There are {len(features)} training examples for k={k}", "Set the evaluator's k within them")
    names, classes = np.unique(labels, return_inverse=True)
    features, test_features = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (features, test_features)
    )
    features, classes, right = jnp.asarray(features), jnp.asarray(classes), 0
    for start in range(0, len(test_features), _BLOCK):
        block = test_features[start : start + _BLOCK]
        # Every block has the same shape, so that there is one program to compile.
        padded = np.pad(block, ((0, _BLOCK - len(block)), (0, 0)))
        votes = _votes(padded, features, classes, k, len(names), temperature)
        predicted = names[np.asarray(votes.argmax(axis=1))[: len(block)]]
        right += int((predicted == test_labels[start : start + _BLOCK]).sum())
    return right / len(test_features)


@dataclasses.dataclass(frozen=True)
class KNN:
    """Accuracy of the k nearest neighbours.

    Args:
        train, test: pipelines; the neighbours are those of `train`.
        features: a task output, or 'pixels'.
        k: how many vote.
        temperature: of their votes.
    """

    train: EvalPipeline = dataclasses.field(hash=False)
    test: EvalPipeline = dataclasses.field(hash=False)
    features: str
    k: int
    temperature: float

    def check(self) -> None:
        if not 1 <= self.k <= len(self.train.source):
            raise UserError(
                f"There are {len(self.train.source)} training examples for k={self.k}",
                "Set the evaluator's k within them",
            )

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        train, test = (run.features(pipeline, self.features) for pipeline in (self.train, self.test))
        return {"accuracy": knn_accuracy(train, test, self.k, self.temperature)}


def build(
    pipeline: PipelineFactory,
    *,
    train: Mapping[str, Any],
    test: Mapping[str, Any] | None = None,
    features: str = "features",
    k: Count = 20,
    temperature: Positive = TEMPERATURE,
) -> KNN:
    """From a source section for the neighbours and one to classify, `data.eval` by default."""
    if temperature <= 0:
        raise UserError(f"The temperature of the votes is {temperature}", "Use a positive one, usually 0.07")
    return KNN(pipeline(source=train), pipeline(source=test), features, k, temperature)
