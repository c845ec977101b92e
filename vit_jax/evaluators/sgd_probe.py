"""Linear probe by SGD with momentum on frozen features.

The optimizer of MoCo v3's and MAE's linear classification (arXiv:2104.02057, section 4; arXiv:2111.06377, table 10)
without augmentation: features are computed once and standardised, which stands for MAE's batch norm without affine
parameters; weights start at zero, the learning rate falls along a half cosine.
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
from vit_jax.evaluators.features import Labelled, standardize
from vit_jax.ranges import Count, Decay, NonNegative


def orders(n: int, batch_size: int, epochs: int, seed: int) -> Int[np.ndarray, "steps B"]:
    """Indices of the examples of every step: a permutation an epoch, without its last incomplete batch."""
    rng, batch_size = np.random.default_rng(seed), min(batch_size, n)
    steps = n // batch_size
    epoch_orders = [rng.permutation(n)[: steps * batch_size].reshape(steps, batch_size) for _ in range(epochs)]
    return np.concatenate(epoch_orders).astype(np.int32)


@functools.partial(jax.jit, static_argnums=(3,))
def sgd(
    features: Float[Array, "N D"], classes: Int[Array, " N"], order: Int[Array, "steps B"], num_classes: int,
    learning_rate: float, momentum: float, weight_decay: float,
) -> tuple[Float[Array, "D K"], Float[Array, " K"]]:  # fmt: skip
    """Weights and biases after SGD on softmax cross-entropy; the decay is of the weights alone."""

    def step(carry: tuple, at: tuple[Array, Array]) -> tuple[tuple, None]:
        parameters, velocity = carry
        rows, rate = at

        def loss(parameters: tuple[Array, Array]) -> Array:
            weights, biases = parameters
            log_probabilities = jax.nn.log_softmax(features[rows] @ weights + biases)
            picked = jnp.take_along_axis(log_probabilities, classes[rows][:, None], axis=1)
            return -picked.mean() + 0.5 * weight_decay * jnp.square(weights).sum()

        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, jax.grad(loss)(parameters))
        return (jax.tree.map(lambda p, v: p - rate * v, parameters, velocity), velocity), None

    zeros = (jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
    steps = order.shape[0]
    rates = learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * jnp.arange(steps) / steps))
    return jax.lax.scan(step, (zeros, zeros), (order, rates))[0][0]


@dataclasses.dataclass(frozen=True)
class SGDProbe:
    """Test accuracy of the probe: mean and standard deviation over orders of the examples.

    Args:
        train, test: pipelines; classes are those of `train`.
        features: a task output, or 'pixels'.
        learning_rate, momentum, weight_decay: of SGD.
        batch_size: examples a step.
        epochs: passes over the training examples.
        seeds: orders.
    """

    train: EvalPipeline = dataclasses.field(hash=False)
    test: EvalPipeline = dataclasses.field(hash=False)
    features: str
    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    epochs: int
    seeds: int

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        train, test = (run.features(pipeline, self.features) for pipeline in (self.train, self.test))
        accuracies = [self.accuracy(train, test, seed) for seed in range(self.seeds)]
        return {"accuracy": float(np.mean(accuracies)), "accuracy_std": float(np.std(accuracies))}

    def accuracy(self, train: Labelled, test: Labelled, seed: int) -> float:
        """Of one order of the examples."""
        features, test_features = standardize(train[0], test[0])
        names, classes = np.unique(train[1], return_inverse=True)
        order = orders(len(features), self.batch_size, self.epochs, seed)
        weights, biases = sgd(
            features, classes, order, len(names), self.learning_rate, self.momentum, self.weight_decay
        )  # fmt: skip
        predicted = names[(test_features @ np.asarray(weights) + np.asarray(biases)).argmax(axis=1)]
        return float((predicted == test[1]).mean())


def build(
    pipeline: PipelineFactory,
    *,
    train: Mapping[str, Any],
    test: Mapping[str, Any] | None = None,
    features: str = "features",
    learning_rate: NonNegative = 0.03,
    momentum: Decay = 0.9,
    weight_decay: NonNegative = 0.0,
    batch_size: Count = 256,
    epochs: Count = 90,
    seeds: Count = 1,
) -> SGDProbe:
    """From a source section to train on and one to test on, `data.eval` by default."""
    for name, value in (("batch_size", batch_size), ("epochs", epochs), ("seeds", seeds)):
        if value < 1:
            raise UserError(f"The {name} of the SGD probe is {value}", "It must be at least 1")
    return SGDProbe(
        pipeline(source=train), pipeline(source=test), features, learning_rate, momentum, weight_decay, batch_size,
        epochs, seeds,
    )  # fmt: skip
