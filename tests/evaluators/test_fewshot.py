"""The closed-form probe against a plain solution, and its protocol."""

import numpy as np
import pytest

from vit_jax.evaluators.fewshot import fewshot_accuracy, ridge

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("n", "d"), [(7, 30), (30, 7), (12, 12)])
def test_both_gram_matrices_give_the_same_solution(n, d):
    x, y = RNG.normal(size=(n, d)), RNG.normal(size=(n, 3))
    primal = np.linalg.inv(x.T @ x + 5.0 * np.eye(d)) @ x.T @ y
    dual = x.T @ np.linalg.inv(x @ x.T + 5.0 * np.eye(n)) @ y
    np.testing.assert_allclose(primal, dual, rtol=1e-9)
    np.testing.assert_allclose(ridge(x, y, 5.0), primal, rtol=1e-9)


def _data(n=60, noise=0.3):
    labels = np.arange(n) % 3
    return np.eye(3)[labels] * 2 + noise * RNG.normal(size=(n, 3)), labels


def test_protocol_written_out():
    (x, y), (tx, ty) = _data(noise=1.5), _data(noise=1.5)
    rng = np.random.default_rng(1)
    chosen = np.concatenate([rng.permutation(np.where(y == c)[0])[:5] for c in range(3)])
    mean, std = x[chosen].mean(0), x[chosen].std(0) + 1e-5
    a = np.c_[(x[chosen] - mean) / std, np.full(15, 100.0)]
    b = np.c_[(tx - mean) / std, np.full(len(tx), 100.0)]
    w = np.linalg.solve(a.T @ a + 1024 * np.eye(4), a.T @ (2 * np.eye(3)[y[chosen]] - 1))
    assert fewshot_accuracy((x, y), (tx, ty), 5, 1) == ((b @ w).argmax(1) == ty).mean()


def test_easy_data_is_solved_and_shuffled_labels_are_not():
    train, test = _data(), _data()
    assert fewshot_accuracy(train, test, 10, 0) > 0.95
    shuffled = np.random.default_rng(2).permutation(train[1])
    assert fewshot_accuracy((train[0], shuffled), test, 20, 0) < 0.7


def test_labels_need_not_count_from_zero():
    (x, y), (tx, ty) = _data(), _data()
    assert fewshot_accuracy((x, y + 7), (tx, ty + 7), 5, 0) == fewshot_accuracy((x, y), (tx, ty), 5, 0)


def test_a_class_with_fewer_examples_gives_what_it_has():
    """As the reference takes the first `shots` of what there is."""
    (x, y), test = _data(noise=1.5), _data(noise=1.5)
    assert fewshot_accuracy((x, y), test, 25, 0) == fewshot_accuracy((x, y), test, 20, 0)
    kept = np.r_[np.flatnonzero(y != 2), np.flatnonzero(y == 2)[:1]]
    few = x[kept], y[kept]
    rng = np.random.default_rng(0)
    chosen = np.concatenate([rng.permutation(np.where(few[1] == c)[0])[:5] for c in range(3)])
    assert len(chosen) == 11
    exact = fewshot_accuracy((few[0][chosen], few[1][chosen]), test, 99, 3)
    assert fewshot_accuracy(few, test, 5, 0) == exact
