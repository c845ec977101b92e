"""The classification loss against its formula: smoothing, shares as labels, and the metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_jax.tasks.classify import Classify

LOGITS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 3, 1, 1, 2, 0], np.int32)


class Fixed(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return {"logits": images}


def loss(label, **fields):
    task = Classify(Fixed(), {}, 4, **fields)
    batch = {"image": jnp.asarray(LOGITS), "label": jnp.asarray(label)}
    value, (metrics, _) = task.loss({"params": {}, "model_state": {}}, batch, jax.random.key(0), jnp.int32(0))
    return float(value), {k: float(s) / float(w) for k, (s, w) in metrics.items()}


def cross_entropy(targets):
    return -(targets * (LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True)))).sum(-1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_with_label_smoothing(smoothing):
    targets = (1 - smoothing) * np.eye(4)[LABELS] + smoothing / 4
    value, metrics = loss(LABELS, label_smoothing=smoothing)
    assert value == pytest.approx(cross_entropy(targets), rel=1e-5) == metrics["loss"]
    assert metrics["accuracy"] == pytest.approx((LOGITS.argmax(-1) == LABELS).mean())


def test_sigmoid_sums_over_classes_and_smooths():
    targets = 0.8 * np.eye(4)[LABELS] + 0.05
    p = 1 / (1 + np.exp(-LOGITS))
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(-1).mean()
    assert loss(LABELS, objective="sigmoid", label_smoothing=0.2)[0] == pytest.approx(expected, rel=1e-5)


def test_mixed_labels_are_smoothed_and_counted_by_their_larger_share():
    shares = 0.7 * np.eye(4, dtype=np.float32)[LABELS] + 0.3 * np.eye(4, dtype=np.float32)[np.roll(LABELS, 1)]
    value, metrics = loss(shares, label_smoothing=0.1)
    assert value == pytest.approx(cross_entropy(0.9 * shares + 0.025), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx((LOGITS.argmax(-1) == LABELS).mean())
