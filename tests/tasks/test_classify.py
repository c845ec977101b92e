"""The classification loss against its formula in float64: smoothing, shares and several labels, weights, focal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn.utils.class_weight import compute_class_weight

from tests.tiny import tiny_experiment
from vit_jax import UserError
from vit_jax.nn.classification_loss import class_weights, classification_losses
from vit_jax.tasks import DataInfo
from vit_jax.tasks.classify import Classify, build

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


SEVERAL = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]], np.float32)


def test_softmax_gives_each_of_several_labels_its_share():
    """An image without a label has no loss, whatever the smoothing."""
    for smoothing in (0.0, 0.1):
        targets = (1 - smoothing) * SEVERAL / np.maximum(SEVERAL.sum(1, keepdims=True), 1) + smoothing / 4
        targets[1] = 0
        assert loss(SEVERAL, label_smoothing=smoothing)[0] == pytest.approx(cross_entropy(targets), rel=1e-5)


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
def test_any_of_several_labels_is_a_hit(objective):
    answers = LOGITS.argmax(-1)
    hits = [SEVERAL[i, answers[i]] for i in range(6) if SEVERAL[i].any()]
    assert loss(SEVERAL, objective=objective)[1]["accuracy"] == pytest.approx(np.mean(hits))
    second = np.zeros((6, 4), np.float32)
    second[np.arange(6), answers] = second[:, 0] = 1  # the first of two labels is not always the answer
    assert (answers > 0).any() and loss(second, objective=objective)[1]["accuracy"] == 1


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, (1.0, 0.25, 3.0, 1.0)])
@pytest.mark.parametrize("label", [LABELS, SEVERAL], ids=["one", "several"])
def test_weights_and_focal_factor(label, weights, gamma):
    logits, w = LOGITS.astype(np.float64), np.ones(4) if weights is None else np.array(weights)
    several = label if label.ndim == 2 else np.eye(4)[label]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    shares = several / np.maximum(several.sum(1, keepdims=True), 1)
    wanted = -(w * shares * (1 - p) ** gamma * np.log(p)).sum(1).mean()
    assert loss(label, class_weights=weights, focal_gamma=gamma)[0] == pytest.approx(wanted, rel=1e-5)
    p = 1 / (1 + np.exp(-logits))
    terms = several * (1 - p) ** gamma * np.log(p) + (1 - several) * p**gamma * np.log(1 - p)
    ours = loss(label, objective="sigmoid", class_weights=weights, focal_gamma=gamma)[0]
    assert ours == pytest.approx(-(w * terms).sum(1).mean(), rel=1e-5)


def test_alpha_weighs_yes_against_no():
    several, p = np.eye(4)[LABELS], 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    terms = 0.25 * several * (1 - p) ** 2 * np.log(p) + 0.75 * (1 - several) * p**2 * np.log(1 - p)
    ours = loss(LABELS, objective="sigmoid", focal_gamma=2.0, focal_alpha=0.25)[0]
    assert ours == pytest.approx(-terms.sum(1).mean(), rel=1e-5)
    with pytest.raises(UserError, match="focal_alpha weighs yes against no.*Set config.task.class_weights"):
        build(model={"name": "vit", "variant": "mu/4"}, data=DataInfo((8, 8), ("a", "b")), focal_alpha=0.25)


def test_balanced_weights_are_those_of_scikit_learn():
    """And their loss over the whole set is torch's, divided by the weights: their mean is 1."""
    labels = np.random.default_rng(1).choice(3, 200, p=(0.8, 0.15, 0.05)).astype(np.int32)
    found = class_weights("balanced", "abc", lambda: np.bincount(labels))
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-12)
    assert np.mean(np.array(found)[labels]) == pytest.approx(1)
    assert class_weights("balanced", "abc", lambda: (6, 0, 2)) == (8 / 12, 1.0, 2.0)
    assert class_weights("balanced", "abc") is None, "of a checkpoint, which is not trained"


def test_the_training_source_says_how_rare_each_class_is():
    task = tiny_experiment(task__class_weights="balanced", data__train__per_class=None).task
    counts = np.array([143, 146, 142, 147, 145, 146, 145, 144, 140, 144])
    np.testing.assert_allclose(task.class_weights, counts.sum() / (10 * counts))


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
def test_gradients_stay_finite_where_the_model_is_certain(objective):
    logits = jnp.array([[200.0, -200.0, 0.0], [0.0, 0.0, 0.0]])
    gradient = jax.grad(lambda x: classification_losses(x, jnp.eye(3)[:2], objective, focal_gamma=0.5).sum())(logits)
    assert np.isfinite(gradient).all()


def test_weights_by_name():
    data = DataInfo((8, 8), ("cat", "dog", "eel"))
    model = {"name": "vit", "variant": "mu/4"}
    assert build(model=model, data=data, class_weights={"eel": 4.0}).class_weights == (1.0, 1.0, 4.0)
    assert build(model=model, data=data, class_weights=[1.0, 2.0, 3.0]).class_weights == (1.0, 2.0, 3.0)
    assert build(model=model, data=data).class_weights is None
    for wrong, message in (
        ({"eell": 2.0}, "'eell', which is not a class. Did you mean 'eel'"),
        ([1.0], "1 weights for 3"),
    ):
        with pytest.raises(UserError, match=message):
            build(model=model, data=data, class_weights=wrong)
