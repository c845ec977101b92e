"""Figures of several labels against scikit-learn, through the pipeline, whatever the batch and the devices."""

import csv
import dataclasses
import io
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.evaluators import Answers, multilabel
from vit_jax.evaluators.multilabel import MultiLabel, average_precision
from vit_jax.training.evaluation import Evaluation
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.sharding import make_mesh

NAMES = ("cat", "dog", "eel", "nobody's")
rng = np.random.default_rng(0)
LABELS = rng.random((53, 4)) < np.array([0.5, 0.3, 0.2, 0.0])
LOGITS = (rng.normal(size=(53, 4)) + 2 * LABELS - 1).round(1).astype(np.float32)  # rounded: equal scores occur


@dataclasses.dataclass
class Source:
    label_names: tuple[str, ...] = NAMES
    labels: np.ndarray = dataclasses.field(default_factory=lambda: LABELS)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": np.zeros((4, 4, 3), np.uint8), "label": self.labels[index].astype(np.float32)}


def measure(source=None, logits=LOGITS, objective="sigmoid", batch_size=16, devices=1, keep=None, **settings):
    pipeline = EvalPipeline(source or Source(), Preprocess((4, 4)), batch_size, num_threads=0)
    evaluator = MultiLabel(pipeline, **settings).judging(Answers(NAMES, objective))
    mesh = make_mesh({}, jax.devices()[:devices])

    def outputs(variables, batch, names, rng):
        return {"logits": jnp.asarray(logits)[batch["index"]]}

    return Evaluation({"val": evaluator}, outputs, lambda batch: batch, mesh, keep=keep).run({})


@pytest.mark.parametrize(("batch_size", "devices"), [(16, 1), (56, 8)])
def test_against_scikit_learn(batch_size, devices):
    answers, there = np.log(0.3 / 0.7) <= LOGITS, slice(0, 3)  # the last class has no example
    probabilities = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    labelled = LABELS.any(axis=1)
    wanted = {
        "map": sk.average_precision_score(LABELS[:, there], LOGITS[:, there], average="macro"),
        "f1": sk.f1_score(LABELS[:, there], answers[:, there], average="macro"),
        "f1_micro": sk.f1_score(LABELS, answers, average="micro"),
        "precision": sk.precision_score(LABELS, answers, average="micro"),
        "recall": sk.recall_score(LABELS, answers, average="micro"),
        "accuracy": LABELS[np.arange(53), LOGITS.argmax(1)][labelled].mean(),
        "loss": sum(sk.log_loss(LABELS[:, k], probabilities[:, k], labels=[0, 1]) for k in range(4)),
        "examples": 53,
    }
    found = measure(batch_size=batch_size, devices=devices, threshold=0.3)
    assert found == {f"val/{name}": pytest.approx(value, abs=1e-6) for name, value in wanted.items()}


def test_intervals_against_scipy():
    found = measure(bootstrap=30)
    plain = measure()
    assert {name: found[name] for name in plain} == plain and len(found) == 3 * (len(plain) - 1) + 1

    def score(some):
        there = LABELS[some].any(axis=0)
        return sk.average_precision_score(LABELS[some][:, there], LOGITS[some][:, there], average="macro")

    theirs = stats.bootstrap(
        (np.arange(53),), score, n_resamples=30, vectorized=False, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (found["val/map_low"], found["val/map_high"]) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_classes_in_another_order_and_a_table(monkeypatch):
    files, calls = {}, []
    counted = lambda *args: calls.append(1) or average_precision(*args)  # noqa: E731
    monkeypatch.setattr(multilabel, "average_precision", counted)
    shuffled = Source(("eel", "cat", "dog"), LABELS[:, [2, 0, 1]])
    assert measure(shuffled, keep=lambda name, make: files.update({name: make()})) == measure()
    assert len(calls) == 2 * 4  # once for each class, though the table has them too
    table = list(csv.DictReader(io.StringIO(files["val_per_class.csv"].decode())))
    assert [row["class"] for row in table] == list(NAMES) and table[3]["average precision"] == ""
    theirs = sk.average_precision_score(LABELS[:, :3], LOGITS[:, :3], average=None)
    np.testing.assert_allclose([float(row["average precision"]) for row in table[:3]], theirs, atol=1e-6)


def test_a_softmax_over_several_labels():
    targets = LABELS / np.maximum(LABELS.sum(1, keepdims=True), 1)
    log_p = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum(1, keepdims=True))
    assert measure(objective="softmax")["val/loss"] == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-6)


def test_real_labels_of_imagenet():
    """As Beyer et al. count: an answer is right if it is one of an image's labels; images without any are left out."""
    real = [np.flatnonzero(row) for row in LABELS]
    logits, source = np.random.default_rng(1).normal(size=(53, 4)).astype(np.float32), Source(labels=LABELS)
    hits = [logits[i].argmax() in row for i, row in enumerate(real) if len(row)]
    assert 0 < np.mean(hits) < 1 and len(hits) < 53
    assert measure(source, logits, "softmax")["val/accuracy"] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("scores", [np.zeros(5), np.arange(5.0), -np.arange(5.0), np.array([1.0, 1, 2, 2, 3])])
def test_average_precision_with_equal_scores(scores):
    labels = np.array([0, 1, 0, 1, 1], bool)
    assert average_precision(labels, scores) == pytest.approx(sk.average_precision_score(labels, scores))


def test_what_has_no_figures():
    with pytest.raises(UserError, match="No image of the evaluation data has a label"):
        measure(Source(labels=np.zeros((3, 4))), logits=LOGITS[:3])
    broken = measure(logits=np.where(np.arange(4) == 1, np.nan, LOGITS))
    assert np.isnan(broken["val/map"]) and np.isnan(broken["val/loss"])


@pytest.mark.slow
def test_a_run_on_a_list_with_several_labels(tmp_path):
    """Light above is "up", light on the left "left", and half of the images have neither: trained and evaluated."""
    rows = ["path,label,split"]
    for i in range(48):
        image = np.random.default_rng(i).integers(0, 60, (8, 8, 3), np.uint8)
        up, left = i % 4 == 1, i % 8 in (1, 2)
        image[:4] += np.uint8(150 * up)
        image[:, :4] += np.uint8(40 * left)
        (tmp_path / f"{i}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
        rows.append(f"{i}.png,{';'.join(name for name, is_there in (('up', up), ('left', left)) if is_there)},all")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    config = tiny_config(steps=30)
    data = {"name": "manifest", "path": str(tmp_path / "list.csv"), "split": "all", "multi_label": True}
    config["data"] |= {"train": data, "eval": data, "balance": True}
    config["task"] |= {"objective": "sigmoid", "class_weights": {"left": 2.0}, "focal_gamma": 1.0}
    config["evals"] = {"val": {"name": "multilabel"}}
    summary = train(build_experiment(config), tmp_path / "run", jax.devices()[:1])
    assert summary["val/map"] > 0.6  # a third by chance
    assert main(["evaluate", "--checkpoint", str(tmp_path / "run"), "--output", f"{tmp_path}/scores/"]) == 0
    scores = json.loads((tmp_path / "scores/metrics.json").read_text())
    assert {name: scores[name] for name in summary if name.startswith("val/")} == pytest.approx(
        {name: value for name, value in summary.items() if name.startswith("val/")}, rel=1e-5
    )
    assert (tmp_path / "scores/val_per_class.csv").read_text().count("\n") == 3
