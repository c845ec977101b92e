"""Alignment and uniformity against loops, at their extremes, and in a run."""

import numpy as np
import pytest

from tests.tiny_contrastive import contrastive_config, contrastive_run
from vit_jax import UserError
from vit_jax.evaluators import alignment_uniformity
from vit_jax.evaluators.alignment_uniformity import alignment, uniformity
from vit_jax.training.experiment import build_experiment

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("alpha", "t"), [(2.0, 2.0), (1.0, 3.0)])
def test_loops(alpha, t, monkeypatch):
    monkeypatch.setattr(alignment_uniformity, "_BLOCK", 3)
    x, y = RNG.normal(size=(2, 7, 4)).astype(np.float32)
    a, b = ([v / np.sqrt((v**2).sum()) for v in z] for z in (x, y))
    expected = np.mean([np.sqrt(((p - q) ** 2).sum()) ** alpha for p, q in zip(a, b, strict=True)])
    assert alignment(x, 5 * y, alpha) == pytest.approx(expected, rel=1e-5)
    pairs = [np.exp(-t * ((a[i] - a[j]) ** 2).sum()) for i in range(7) for j in range(7) if i != j]
    assert uniformity(3 * x, t) == pytest.approx(np.log(np.mean(pairs)), rel=1e-5)


def test_extremes():
    collapsed = np.ones((5, 3), np.float32)
    assert alignment(collapsed, collapsed) == pytest.approx(0, abs=1e-12) == uniformity(collapsed)
    opposite = np.array([[1, 0], [-1, 0]], np.float32)
    assert uniformity(opposite) == pytest.approx(-8) and alignment(opposite, opposite[::-1]) == pytest.approx(4)


def test_uniformity_of_one_example():
    with pytest.raises(UserError, match="there is one"):
        uniformity(np.ones((1, 3)))


@pytest.mark.long
def test_in_a_run(tmp_path):
    """Views that do not differ are perfectly aligned; and k-NN runs beside it on the same checkpoint."""
    view = {"name": "view", "area": [0.3, 1.0]}
    same = {**view, "area": [1.0, 1.0], "aspect": [1.0, 1.0], "flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0}
    train = {"name": "digits", "split": "train", "per_class": 6}
    evals = {
        "views": {"name": "alignment_uniformity", "transform": view},
        "same": {"name": "alignment_uniformity", "transform": same, "features": "projections"},
        "knn": {"name": "knn", "train": train, "k": 5},
    }
    summary = contrastive_run(tmp_path, "simclr", steps=2, optim__schedule__warmup_steps=0, evals=evals)
    assert summary["same/alignment"] == pytest.approx(0, abs=1e-9) and summary["views/alignment"] > 1e-3
    assert summary["views/uniformity"] < 0 and summary["same/uniformity"] < 0 and 0 <= summary["knn/accuracy"] <= 1


def test_mistakes():
    config = contrastive_config("simclr")
    for changes, message in (
        ({"transform": {"name": "two_views"}}, "draws its two views itself"),
        ({"transform": {"name": "view"}, "t": 0}, r"\bt is 0"),
    ):
        evals = {"views": {"name": "alignment_uniformity", **changes}}
        with pytest.raises(UserError, match=message):
            build_experiment(config | {"evals": evals})
