"""Linear probes and nearest neighbours against scikit-learn and loops in NumPy."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from vit_jax import UserError
from vit_jax.evaluators import knn, linear_probe, sgd_probe
from vit_jax.evaluators.features import standardize
from vit_jax.evaluators.knn import knn_accuracy


def data(n=90, noise=0.5, seed=0, width=5):
    """Three classes, labelled 4, 5 and 6, around unit vectors."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    return (np.eye(3, width)[labels] + noise * rng.normal(size=(n, width))).astype(np.float32), labels + 4


class Given:
    """A run whose features are given."""

    def features(self, pipeline, output):
        assert output == "features"
        return pipeline


def given_pipelines(train, test):
    return lambda source: {"train": train, "test": test}[source["name"]]


def probe(module, train, test, **kwargs):
    evaluator = module.build(given_pipelines(train, test), train={"name": "train"}, test={"name": "test"}, **kwargs)
    return evaluator.metrics(Given())


@pytest.mark.parametrize("k", [1, 7, 90])
def test_knn_equals_scikit_learn(k):
    train, test = data(noise=1.0), data(300, noise=1.0, seed=1)  # more than one block
    sklearn = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = sklearn.fit(*train).score(*test)
    assert 0.4 < expected < 0.95
    assert knn_accuracy(train, test, k) == pytest.approx(expected, abs=0.004)  # a vote may be that close
    assert knn_accuracy(train, (test[0] * 100, test[1]), k) == pytest.approx(expected, abs=0.004)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends have no call of this name")
def test_knn_selects_rather_than_sorts():
    """What is done with the k nearest must not turn their selection into a sort of all."""
    train = np.zeros((500, 8), np.float32)
    compiled = knn._votes.lower(train[:256], train, np.zeros(500, np.int32), 20, 10, 0.07).compile().as_text()
    assert "TopK" in compiled and " sort(" not in compiled


def test_knn_weights_its_votes():
    """Two neighbours at 60 degrees do not outvote one at 0."""
    features = np.array([[1, 0], [0.5, 0.8], [0.5, 0.8], [-1, 0]], np.float32)
    train, test = (features, np.array([1, 2, 2, 3])), (features[:1], np.array([1]))
    assert knn_accuracy(train, test, 3) == 1.0
    assert knn_accuracy(train, test, 3, temperature=1e3) == 0.0


def test_knn_needs_k_examples():
    with pytest.raises(UserError, match="There are 90 training examples for k=91"):
        knn_accuracy(data(), data(), 91)


def test_standardize():
    x, y = data()[0] * 3 + 7, data(seed=1)[0]
    ours, other = standardize(x, y)
    np.testing.assert_allclose([ours.mean(0), ours.std(0)], [np.zeros(5), np.ones(5)], atol=1e-4)
    np.testing.assert_allclose(other, (y - x.mean(0)) / (x.std(0) + 1e-5), rtol=1e-4, atol=1e-5)


def test_logistic_regression_minimises_what_it_says():
    features, labels = data()
    model = linear_probe.fit(features, labels, 0.1)
    logits = features @ model.coef_.T + model.intercept_
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    errors = (probabilities - (labels[:, None] == [4, 5, 6])) / len(labels)
    np.testing.assert_allclose(errors.T @ features + 0.1 * model.coef_, 0, atol=2e-4)
    np.testing.assert_allclose(errors.sum(0), 0, atol=2e-4)


def test_linear_probe_written_out():
    train, test = data(noise=0.7, width=40), data(200, noise=0.7, seed=1, width=40)
    penalties = (1.0, 0.1, 1e-2, 1e-5)
    mask = linear_probe.held_out(train[1], 0.2, 0)
    assert mask.sum() == 18 and all(mask[train[1] == c].sum() == 6 for c in (4, 5, 6))
    ours, theirs = standardize(train[0][~mask], train[0][mask])
    scores = []
    for penalty in penalties:
        model = LogisticRegression(C=1 / (penalty * len(ours)), tol=1e-6, max_iter=5000).fit(ours, train[1][~mask])
        scores.append(model.score(theirs, train[1][mask]))
    best = penalties[int(np.argmax(scores))]
    assert best == 0.1, "the best is the strongest of several, and neither the first nor the last"
    full, tested = standardize(train[0], test[0])
    expected = LogisticRegression(C=1 / (best * len(full)), tol=1e-6, max_iter=5000).fit(full, train[1])
    metrics = probe(linear_probe, train, test, penalties=penalties)
    assert metrics["penalty"] == pytest.approx(best)
    assert metrics["accuracy"] == pytest.approx(expected.score(tested, test[1]), abs=0.006)
    assert metrics["accuracy_std"] == 0
    assert not np.array_equal(mask, linear_probe.held_out(train[1], 0.2, 1))


def test_clips_search_finds_the_peak_of_96_steps():
    """Seven penalties two decades apart, then half the interval around the best, to an eighth of a decade."""
    assert linear_probe.strength(0) == pytest.approx(1e-6) and linear_probe.strength(96) == pytest.approx(1e6)
    for peak in (0, 1, 37, 48, 71, 96):
        tried = []
        found = linear_probe.search(lambda step, peak=peak, tried=tried: tried.append(step) or -abs(step - peak))
        assert found == peak
        assert tried[:7] == [0, 16, 32, 48, 64, 80, 96] and 11 <= len(tried) <= 15 and len(set(tried)) == len(tried)
    assert linear_probe.search(lambda step: 1.0) == 0, "of equals the strongest penalty"
    assert linear_probe.search(lambda step: float(step >= 40)) == 40


def test_linear_probe_as_clip_has_it():
    """Features as they are, and the sum of losses against |W|^2 / 2C, which scikit-learn's C means."""
    train, test = data(noise=0.7, width=12), data(200, noise=0.7, seed=1, width=12)
    metrics = probe(linear_probe, train, test, sweep="clip")
    mask = linear_probe.held_out(train[1], 0.2, 0)

    def model(step, rows):
        return LogisticRegression(C=10 ** (step / 8 - 6), max_iter=1000).fit(train[0][rows], train[1][rows])

    scores = {s: model(s, ~mask).score(train[0][mask], train[1][mask]) for s in range(0, 97, 16)}
    step, stride = max(scores, key=lambda s: (scores[s], -s)), 16
    while stride > 1:
        stride //= 2
        near = [s for s in (step - stride, step, step + stride) if 0 <= s <= 96]
        scores = {s: model(s, ~mask).score(train[0][mask], train[1][mask]) for s in near}
        step = max(scores, key=lambda s: (scores[s], -s))
    assert 0 < step < 96
    assert metrics["C"] == pytest.approx(10 ** (step / 8 - 6))
    assert metrics["accuracy"] == pytest.approx(model(step, slice(None)).score(*test), abs=1e-9)


def test_linear_probe_of_features_that_know_nothing():
    (features, _), test = data(), data(seed=1)
    shuffled = np.random.default_rng(3).permutation(data()[1])
    assert probe(linear_probe, (features, shuffled), test, seeds=2)["accuracy"] < 0.6


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"penalties": ()}, "penalties"), ({"penalties": (0.0,)}, "positive"), ({"held_out": 1.0}, "between 0 and 1")],
)
def test_linear_probe_mistakes(kwargs, message):
    with pytest.raises(UserError, match=message):
        probe(linear_probe, data(), data(), **kwargs)


def test_linear_probe_needs_two_of_each_class():
    with pytest.raises(UserError, match="Class 5 has a single training example"):
        linear_probe.held_out(np.array([4, 4, 5, 6, 6]), 0.2, 0)


def test_sgd_equals_a_loop_in_numpy():
    features, labels = data(20)
    order = sgd_probe.orders(20, 6, 3, seed=1)
    assert order.shape == (9, 6) and len(set(order[:3].flat)) == 18
    weights, biases = np.zeros((5, 3)), np.zeros(3)
    velocities = [np.zeros((5, 3)), np.zeros(3)]
    for t, rows in enumerate(order):
        x, targets = features[rows].astype(np.float64), np.eye(3)[labels[rows] - 4]
        logits = x @ weights + biases
        errors = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - targets) / 6
        gradients = [x.T @ errors + 0.01 * weights, errors.sum(0)]
        velocities = [0.9 * v + g for v, g in zip(velocities, gradients, strict=True)]
        rate = 0.5 * 0.5 * (1 + np.cos(np.pi * t / 9))
        weights, biases = weights - rate * velocities[0], biases - rate * velocities[1]
    ours = sgd_probe.sgd(features, labels - 4, order, 3, 0.5, 0.9, 0.01)
    np.testing.assert_allclose(ours[0], weights, atol=1e-5)
    np.testing.assert_allclose(ours[1], biases, atol=1e-5)


def test_sgd_probe_finds_what_logistic_regression_finds():
    train, test = data(), data(300, seed=1)
    expected = LogisticRegression().fit(*train).score(*test)
    metrics = probe(sgd_probe, train, test, batch_size=32, seeds=2)
    assert metrics["accuracy"] == pytest.approx(expected, abs=0.03)
    assert metrics["accuracy_std"] < 0.02


def test_sgd_probe_mistakes():
    with pytest.raises(UserError, match="epochs of the SGD probe is 0"):
        probe(sgd_probe, data(), data(), epochs=0)
