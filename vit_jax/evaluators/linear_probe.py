"""Linear probe by logistic regression with L-BFGS, as CLIP measures representations.

"Learning transferable visual models from natural language supervision" (arXiv:2103.00020, section A.3): a multinomial
logistic regression on frozen features, its L2 penalty chosen on a held-out part of the training set, then fitted again
to all of it. Here features are standardised first, so that one grid of penalties serves all models. With sweep="clip"
it is the paper's own: features as they are, at most 1,000 iterations, and the penalty of 96 steps from 10^-6 to 10^6,
eight in each decade, of which a search that halves its step around the best tries 15.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.features import Labelled, standardize
from vit_jax.ranges import Count, Positive, Share

PENALTIES = tuple(10.0**power for power in range(2, -7, -1))

_DECADE, _STEPS, _FIRST = 8, 96, 16  # of CLIP's sweep: steps in a decade and in all, and between the first seven tried


def held_out(labels: Int[np.ndarray, " N"], fraction: float, seed: int) -> Bool[np.ndarray, " N"]:
    """A mask over `fraction` of each class, at least one example of it, drawn by seed.

    Raises:
        UserError: when a class has a single example.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise UserError(
                f"Class {label} has a single training example, and a linear probe holds one out",
                "Use more examples, or the evaluator 'fewshot' or 'knn'",
            )
        mask[members[: min(max(round(fraction * len(members)), 1), len(members) - 1)]] = True
    return mask


def fit(features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], penalty: float, start: Any = None) -> Any:
    """Minimises mean cross-entropy + penalty / 2 * |W|^2 over weights W [K, D] and unpenalised biases [K].

    Args:
        start: a fitted model to start from, for a path of penalties; it is changed and returned.

    Returns:
        scikit-learn's `LogisticRegression`.
    """
    from sklearn.linear_model import LogisticRegression  # 1 s to import

    model = start or LogisticRegression(max_iter=2000, tol=1e-5, warm_start=True)
    model.C = 1.0 / (penalty * len(features))  # scikit-learn sums over examples and divides the penalty's side by C
    return _fitted(model, features, labels)


def fit_clip(features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], step: int) -> Any:
    """Minimises summed cross-entropy + |W|^2 / (2 C), C = 10^(step / 8 - 6), as CLIP's code does by scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    return _fitted(LogisticRegression(C=strength(step), max_iter=1000), features, labels)


def strength(step: int) -> float:
    """C, the inverse of the L2 penalty, at a step of CLIP's sweep."""
    return 10.0 ** (step / _DECADE - _STEPS // _DECADE / 2)


def _fitted(model: Any, features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"]) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # The weakest penalties on separable data have no minimum near; the held-out accuracy judges what comes of it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


def choose(train: Labelled, penalties: Sequence[float], fraction: float, seed: int) -> float:
    """The penalty with the best held-out accuracy; of equals the strongest."""
    features, labels = train
    mask = held_out(labels, fraction, seed)
    ours, theirs = standardize(features[~mask], features[mask])
    best, chosen, model = -1.0, None, None
    for penalty in sorted(penalties, reverse=True):
        model = fit(ours, labels[~mask], penalty, model)
        accuracy = float((model.predict(theirs) == labels[mask]).mean())
        if accuracy > best:
            best, chosen = accuracy, penalty
    return chosen


def search(accuracy: Callable[[int], float]) -> int:
    """The best step of CLIP's sweep by its "parametric binary search": from seven penalties, two decades apart, the
    interval around the best is halved until steps are neighbours. Of equals it takes the strongest penalty.

    Args:
        accuracy: on the held-out part, at a step from 0 (C = 10^-6) to 96 (C = 10^6).
    """
    known: dict[int, float] = {}

    def best(steps: Sequence[int]) -> int:
        for step in steps:
            if step not in known:
                known[step] = accuracy(step)
        return max(steps, key=lambda step: (known[step], -step))

    stride = _FIRST
    chosen = best(range(0, _STEPS + 1, stride))
    while stride > 1:
        stride //= 2
        chosen = best([s for s in (chosen - stride, chosen, chosen + stride) if 0 <= s <= _STEPS])
    return chosen


def choose_clip(train: Labelled, fraction: float, seed: int) -> int:
    """The step of CLIP's sweep with the best held-out accuracy that its search finds."""
    features, labels = train
    mask = held_out(labels, fraction, seed)

    def accuracy(step: int) -> float:
        model = fit_clip(features[~mask], labels[~mask], step)
        return float((model.predict(features[mask]) == labels[mask]).mean())

    return search(accuracy)


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """Test accuracy of the probe: mean and standard deviation over draws of the held-out part.

    Args:
        train, test: pipelines; classes are those of `train`.
        features: a task output, or 'pixels'.
        penalties: candidates for the L2 penalty, per example.
        fraction: of the training examples, held out to choose among them.
        seeds: draws of the held-out part.
        sweep: "grid" of the penalties, or "clip".
    """

    train: EvalPipeline = dataclasses.field(hash=False)
    test: EvalPipeline = dataclasses.field(hash=False)
    features: str
    penalties: tuple[float, ...]
    fraction: float
    seeds: int
    sweep: str = "grid"

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        train, test = (run.features(pipeline, self.features) for pipeline in (self.train, self.test))
        if self.sweep == "clip":
            return self._as_clip(train, test)
        features, test_features = standardize(train[0], test[0])
        chosen = [choose(train, self.penalties, self.fraction, seed) for seed in range(self.seeds)]
        # The fit to all examples is the same for all draws that chose the same penalty.
        accuracies = {
            p: float((fit(features, train[1], p).predict(test_features) == test[1]).mean()) for p in {*chosen}
        }
        found = [accuracies[p] for p in chosen]
        return {
            "accuracy": float(np.mean(found)),
            "accuracy_std": float(np.std(found)),
            "penalty": float(np.exp(np.mean(np.log(chosen)))),
        }

    def _as_clip(self, train: Labelled, test: Labelled) -> dict[str, float]:
        chosen = [choose_clip(train, self.fraction, seed) for seed in range(self.seeds)]
        accuracies = {step: float((fit_clip(*train, step).predict(test[0]) == test[1]).mean()) for step in {*chosen}}
        found = [accuracies[step] for step in chosen]
        return {"accuracy": float(np.mean(found)), "accuracy_std": float(np.std(found)), "C": strength(np.mean(chosen))}


def build(
    pipeline: PipelineFactory,
    *,
    train: Mapping[str, Any],
    test: Mapping[str, Any] | None = None,
    features: str = "features",
    penalties: Sequence[Positive] = PENALTIES,
    held_out: Share = 0.2,
    seeds: Count = 1,
    sweep: Literal["grid", "clip"] = "grid",
) -> LinearProbe:
    """From a source section to train on and one to test on, `data.eval` by default.

    Args:
        penalties: of the sweep "grid".
        held_out: the share of the training examples on which the penalty is chosen.
        seeds: draws of that share.
        sweep: how the penalty is chosen: "grid" of `penalties` on standardised features, or "clip" as in CLIP's paper.
    """
    if not penalties or min(penalties) <= 0:
        raise UserError(f"The penalties of the linear probe are {list(penalties)}", "Give positive numbers")
    if not 0 < held_out < 1:
        raise UserError(f"The linear probe holds out {held_out} of its examples", "Use a fraction between 0 and 1")
    return LinearProbe(
        pipeline(source=train), pipeline(source=test), features, tuple(penalties), held_out, seeds, sweep
    )
