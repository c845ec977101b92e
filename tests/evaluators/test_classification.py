"""Evaluation counts every example exactly once, whatever batch size and devices, on data named as the data likes."""

import csv
import io
import json

import cv2
import jax
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

import vit_jax
from tests.checkpoints.test_export import source as random_checkpoint
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.commands.main import main
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import digits
from vit_jax.evaluators import Answers
from vit_jax.evaluators.averaged_views import views_of
from vit_jax.evaluators.bootstrap import with_intervals
from vit_jax.evaluators.calibration_error import reliability
from vit_jax.tasks import chosen
from vit_jax.training.evaluation import Evaluation, build_evaluators, evaluate_loaded, judging
from vit_jax.training.inputs import build_inputs
from vit_jax.training.sharding import make_mesh

SOURCE = {"name": "digits", "split": "test"}  # 355 images, which no batch size below divides


def evaluate(batch_size, devices, outputs, objective="softmax", classes=10, keep=None, known=None, **settings):
    values = tiny_config(data__eval_batch_size=batch_size)
    section = {"name": "classification", "source": SOURCE | {"classes": list(range(classes))}, **settings}
    evaluators = build_evaluators({"val": section}, build_inputs(values["data"]), 16)
    evaluators = judging(Answers(tuple(map(str, range(known or classes))), objective), evaluators)
    mesh = make_mesh({}, jax.devices()[:devices])
    return Evaluation(evaluators, outputs, lambda batch: batch, mesh, keep=keep).run({})


def drawn(classes=10):
    """Random logits by index, and the labels that they go with."""
    source = digits.build("test", classes=range(classes))
    labels = np.array([source[i]["label"] for i in range(len(source))])
    logits = np.random.default_rng(0).normal(size=(len(labels), classes)) + 1.5 * np.eye(classes)[labels]
    logits = logits.astype(np.float32)
    return labels, logits, lambda variables, batch, names, rng: {"logits": jax.numpy.asarray(logits)[batch["index"]]}


def test_exact_counts_and_metrics():
    def outputs(variables, batch, names, rng):
        return {"logits": 3.0 * jax.nn.one_hot(batch["index"] % 10, 10)}

    source = digits.build("test")
    labels = np.array([source[i]["label"] for i in range(355)])
    right = labels == np.arange(355) % 10
    normaliser = np.log(np.exp(3.0) + 9)
    for batch_size, devices in ((16, 1), (100, 4), (64, 8), (512, 8)):
        metrics = evaluate(batch_size, devices, outputs)
        assert metrics["val/examples"] == 355
        assert metrics["val/accuracy"] == pytest.approx(right.mean())
        assert metrics["val/loss"] == pytest.approx((normaliser - 3.0 * right).mean(), rel=1e-5)


def calibration(logits, labels, bins=15):
    """Guo et al., equation 3, from scikit-learn's curve and how many answers are in each of its bins."""
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    confidence, right = probabilities.max(1), logits.argmax(1) == labels
    shares, said = calibration_curve(right, confidence, n_bins=bins, strategy="uniform")
    counts = np.bincount(np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True))
    return (np.abs(shares - said) * counts[counts > 0]).sum() / len(labels)


def test_figures_against_scikit_learn():
    labels, logits, outputs = drawn()
    metrics = evaluate(64, 1, outputs)
    wanted = {
        "accuracy": sk.accuracy_score(labels, logits.argmax(1)),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, logits.argmax(1)),
        "top5_accuracy": sk.top_k_accuracy_score(labels, logits, k=5),
        "loss": sk.log_loss(labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)),
        "ece": calibration(logits, labels),
        "examples": 355,
    }
    assert metrics == {f"val/{name}": pytest.approx(value, abs=1e-6) for name, value in wanted.items()}


RARE = (140, 101, 100, 60, 35, 25, 20, 19, 9, 1)


def test_accuracy_by_how_rare_a_class_is_against_scikit_learn():
    """Many, medium and few training examples; the training set has its classes in another order than the model."""
    labels, logits, outputs = drawn()
    train = {"name": "digits", "split": "train", "classes": list(range(10))[::-1], "per_class": RARE[::-1]}
    files = {}
    metrics = evaluate(64, 1, outputs, train=train, bootstrap=20, keep=lambda name, make: files.update({name: make}))
    groups = {"many": [0, 1], "medium": [2, 3, 4, 5, 6], "few": [7, 8, 9]}
    for name, classes in groups.items():
        theirs = sk.recall_score(labels, logits.argmax(1), labels=classes, average="macro")
        assert metrics[f"val/{name}_accuracy"] == pytest.approx(theirs, abs=1e-6), name
        assert metrics[f"val/{name}_accuracy_low"] <= theirs <= metrics[f"val/{name}_accuracy_high"]
    rows = list(csv.DictReader(io.StringIO(files["val_per_class.csv"]().decode())))
    assert [row["class"] for row in rows] == [str(k) for k in range(10)][::-1]
    assert [int(row["training examples"]) for row in rows] == sorted(RARE)
    few = [float(row["accuracy"]) for row in rows[:3]]
    assert np.mean(few) == pytest.approx(metrics["val/few_accuracy"], abs=1e-5)


def test_a_group_without_examples_is_left_out():
    _, _, outputs = drawn(classes=4)
    train = {"name": "digits", "split": "train", "classes": list(range(4)), "per_class": 30}
    metrics = evaluate(100, 1, outputs, classes=4, train=train)
    assert "val/medium_accuracy" in metrics and not {"val/many_accuracy", "val/few_accuracy"} & metrics.keys()


def test_a_source_that_does_not_know_its_labels_has_no_rare_classes(monkeypatch):
    monkeypatch.setattr("vit_jax.data.order.known_labels", lambda source: None)
    with pytest.raises(UserError, match="by the number of training examples needs their labels.*'train' out"):
        evaluate(64, 1, None, train=SOURCE)


def test_intervals_of_what_some_resamples_do_not_have():
    def statistic(some):
        return {"rare": 0.5 if 0 in some else float("nan"), "broken": float("nan")}

    found = with_intervals(statistic, 5, 20)
    assert (found["rare_low"], found["rare_high"]) == (0.5, 0.5) and np.isnan(found["broken_low"])


@pytest.mark.long
def test_tables_and_a_picture():
    labels, logits, outputs = drawn()
    files = {}
    evaluate(100, 4, outputs, keep=lambda name, make: files.update({name: make()}))
    names = ("calibration.csv", "calibration.png", "confusion.csv", "confusion.png", "per_class.csv")
    assert sorted(files) == [f"val_{name}" for name in names]
    rows = list(csv.reader(io.StringIO(files["val_confusion.csv"].decode())))
    assert rows[0][1:] == [row[0] for row in rows[1:]] == [str(k) for k in range(10)]
    np.testing.assert_array_equal(
        np.array([row[1:] for row in rows[1:]], int), sk.confusion_matrix(labels, logits.argmax(1))
    )
    table = list(csv.DictReader(io.StringIO(files["val_per_class.csv"].decode())))
    for column, score in (("accuracy", sk.recall_score), ("precision", sk.precision_score)):
        theirs = score(labels, logits.argmax(1), average=None)
        np.testing.assert_allclose([float(row[column]) for row in table], theirs, atol=1e-6)
    picture = cv2.imdecode(np.frombuffer(files["val_confusion.png"], np.uint8), cv2.IMREAD_COLOR)
    assert min(picture.shape[:2]) > 400 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    bins = list(csv.DictReader(io.StringIO(files["val_calibration.csv"].decode())))
    assert len(bins) == 15 and sum(int(row["examples"]) for row in bins) == 355 and bins[0]["accuracy"] == ""
    filled = [{key: float(value) for key, value in row.items()} for row in bins if row["accuracy"]]
    error = sum(row["examples"] * abs(row["accuracy"] - row["confidence"]) for row in filled) / 355
    assert error == pytest.approx(calibration(logits, labels), abs=1e-5)
    assert all(row["above"] <= row["confidence"] <= row["up to"] for row in filled)
    assert cv2.imdecode(np.frombuffer(files["val_calibration.png"], np.uint8), cv2.IMREAD_COLOR).std() > 10


def test_a_confidence_on_the_border_of_bins_counts_below_it():
    found = reliability(np.float32([0, 0.25, 0.25, 0.5, 1]), np.array([0, 1, 0, 1, 1], bool), 4)
    assert found.counts.tolist() == [3, 1, 0, 1] and found.right.tolist() == [1, 1, 0, 1]
    assert found.error == pytest.approx((0.5 + 0.5) / 5)
    assert np.isnan(reliability(np.array([np.nan, 0.3]), np.array([False, True])).error)


def test_intervals_against_scipy():
    labels, logits, outputs = drawn()
    metrics = evaluate(64, 1, outputs, bootstrap=40)
    plain = evaluate(64, 1, outputs)
    assert {name: metrics[name] for name in plain} == plain
    figures = {"accuracy": 0, "top5_accuracy": 0, "balanced_accuracy": 0, "loss": 0, "ece": 0}
    assert set(metrics) - set(plain) == {f"val/{name}_{end}" for name in figures for end in ("low", "high")}
    scores = {
        "accuracy": lambda i: sk.accuracy_score(labels[i], logits[i].argmax(1)),
        "balanced_accuracy": lambda i: sk.balanced_accuracy_score(labels[i], logits[i].argmax(1)),
        "loss": lambda i: sk.log_loss(labels[i], np.exp(logits[i]) / np.exp(logits[i]).sum(1, keepdims=True)),
        "ece": lambda i: calibration(logits[i], labels[i]),
    }
    for name, score in scores.items():
        theirs = stats.bootstrap(
            (np.arange(355),), score, n_resamples=40, vectorized=False, method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        found = metrics[f"val/{name}_low"], metrics[f"val/{name}_high"]
        assert found == pytest.approx((theirs.low, theirs.high), abs=1e-6), name


def test_among_the_classes_of_the_data_alone():
    """As ImageNet-A is measured: the model knows ten classes, the data four."""
    _, logits, outputs = drawn(classes=4)
    ten = np.concatenate([logits, 9 + np.zeros((len(logits), 6), np.float32)], axis=1)

    def of_ten(variables, batch, names, rng):
        return {"logits": jax.numpy.asarray(ten)[batch["index"]]}

    assert evaluate(64, 1, of_ten, classes=4, known=10)["val/accuracy"] == 0
    names = []
    keep = lambda name, make: names.append((name, make().count(b"\n"))) if "per_class" in name else None  # noqa: E731
    found = evaluate(64, 1, of_ten, "sigmoid", classes=4, known=10, keep=keep, among="data")
    assert found == pytest.approx(evaluate(64, 1, outputs, "sigmoid", classes=4))
    assert names == [("val_per_class.csv", 5)]


def from_pixels(variables, batch, names, rng):
    """Logits that are not the same for the mirror image, of images of 8x8 pixels."""
    weights = np.random.default_rng(3).normal(size=(8, 8, 3, 10)).astype(np.float32) / 1000
    return {"logits": jax.numpy.einsum("bhwc,hwck->bk", batch["image"], weights)}


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
@pytest.mark.parametrize("views", ["flip", "ten_crop"])
def test_views_of_an_image_are_averaged(views, objective):
    source = digits.build("test")
    images = np.stack([source[i]["image"] for i in range(355)])
    if views == "flip":
        parts = [images]
    else:
        wide = np.stack([Preprocess((9, 9)).to_uint8(image) for image in images])
        parts = [wide[:, y : y + 8, x : x + 8] for y, x in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 0))]
    seen = [view.astype(np.float32) for part in parts for view in (part, part[:, :, ::-1])]
    scores = [np.float64(from_pixels({}, {"image": view}, (), None)["logits"]) for view in seen]
    if objective == "softmax":
        mean = np.mean([np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in scores], axis=0)
        loss = -np.log(mean[np.arange(355), source.labels])
    else:
        mean = np.mean([1 / (1 + np.exp(-s)) for s in scores], axis=0)
        loss = -np.where(np.eye(10)[source.labels] > 0, np.log(mean), np.log1p(-mean)).sum(1)
    found = evaluate(64, 8, from_pixels, objective, views=views)
    assert found["val/accuracy"] == pytest.approx((mean.argmax(1) == source.labels).mean())
    assert found["val/loss"] == pytest.approx(loss.mean(), rel=1e-5)


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
def test_views_that_are_as_good_as_certain_keep_their_loss(objective):
    def certain(variables, batch, names, rng):
        return {"logits": 200.0 * jax.nn.one_hot(batch["index"] % 10, 10) - 100}

    found, alone = (evaluate(64, 8, certain, objective, views=views) for views in ("flip", None))
    assert found["val/loss"] == pytest.approx(alone["val/loss"], rel=1e-6)
    assert found["val/accuracy"] == alone["val/accuracy"]


@pytest.mark.parametrize(
    ("preprocess", "whole"),
    [
        (Preprocess((224, 224), "short_side", 256, "bicubic"), (256, 256)),
        (Preprocess((224, 224), "short_side", 224, "bicubic"), (256, 256)),
        (Preprocess((224, 112), "cover", (256, 256)), (256, 128)),
        (Preprocess((32, 32)), (37, 37)),
    ],
)
def test_ten_crops_are_cut_from_what_evaluation_crops_its_centre_from(preprocess, whole):
    pipeline = EvalPipeline(digits.build("test"), preprocess, 5)
    wide, views = views_of("ten_crop", pipeline)
    assert wide.fields["image"].preprocess.image_size == whole and views.size == preprocess.image_size
    tops = {place[0] for place in views.places}
    assert tops == {0, (whole[0] - views.size[0]) // 2, whole[0] - views.size[0]} and len(set(views.places)) >= 8


def test_fewer_classes_than_five():
    labels, logits, outputs = drawn(classes=4)
    metrics = evaluate(64, 1, outputs, classes=4)
    assert metrics["val/top3_accuracy"] == pytest.approx(sk.top_k_accuracy_score(labels, logits, k=3))
    assert "val/top1_accuracy" not in evaluate(64, 1, drawn(classes=2)[2], classes=2)


def test_a_sigmoid_model_has_the_sigmoid_loss():
    labels, logits, outputs = drawn()
    terms = np.log1p(np.exp(logits.astype(np.float64))) - np.eye(10)[labels] * logits
    assert evaluate(64, 1, outputs, "sigmoid")["val/loss"] == pytest.approx(terms.sum(1).mean(), rel=1e-6)


def test_ties_and_what_is_not_a_number():
    def all_equal(variables, batch, names, rng):
        return {"logits": jax.numpy.zeros((len(batch["label"]), 10))}

    metrics, labels = evaluate(64, 1, all_equal), drawn()[0]
    assert metrics["val/accuracy"] == pytest.approx((labels == 0).mean())
    assert metrics["val/top5_accuracy"] == pytest.approx((labels < 5).mean())
    broken = evaluate(
        64,
        1,
        lambda variables, batch, names, rng: {"logits": all_equal(variables, batch, names, rng)["logits"] * np.nan},
    )
    assert broken["val/accuracy"] == broken["val/top5_accuracy"] == 0 and np.isnan(broken["val/loss"])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A published classifier of three of ImageNet's classes, in a timm file, and images that it answers."""
    folder = tmp_path_factory.mktemp("published")
    checkpoint = random_checkpoint()
    checkpoint.metadata["labels"] = ["Afghan hound, Afghan", "tench", "goldfish"]
    export(checkpoint, folder / "model", "timm")
    loaded = vit_jax.load(folder / "model")
    images = np.random.default_rng(1).integers(0, 256, (24, 40, 40, 3), np.uint8)
    answers = np.asarray(loaded.logits(np.stack([loaded.preprocess(image) for image in images]))).argmax(1)
    return folder / "model", images, answers


@pytest.mark.parametrize("names", [("n02088094", "n01440764", "n01443537"), ("Afghan_hound", "Tench", "goldfish")])
def test_a_published_classifier_on_folders(published, tmp_path, names):
    """Two thirds of the images lie where the model would put them, in folders of synsets or words, one class lacking."""
    path, images, answers = published
    kept = [i for i in range(len(images)) if answers[i] != 2 or i % 3]
    for i in kept:
        answer = answers[i] if i % 3 else (answers[i] + 1) % 2
        target = tmp_path / "photos" / names[answer] / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(cv2.imencode(".png", images[i][..., ::-1])[1].tobytes())
    config = tiny_config(data__eval__name="folder")
    config["data"]["eval"] = {"name": "folder", "root": str(tmp_path), "split": "photos"}
    measured = evaluate_loaded(vit_jax.load(path), config)
    assert measured["val/accuracy"] == pytest.approx(np.mean([i % 3 > 0 for i in kept]))
    assert measured["val/examples"] == len(kept)


def test_a_class_that_the_model_lacks(published, tmp_path):
    for name in ("n01440764", "n01484850"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.png").write_bytes(
            cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
        )
    config = tiny_config()
    config["data"]["eval"] = {"name": "folder", "root": str(tmp_path), "split": "photos"}
    with pytest.raises(UserError, match="evals.val does not fit the model: The model has no class 'n01484850' among"):
        evaluate_loaded(vit_jax.load(published[0]), config)


def test_a_directory_for_all_that_evaluation_gives(published, tmp_path):
    """Through the command, on the digits under three names that the model has."""
    path, images, answers = published
    names = np.array(["Afghan hound", "tench", "goldfish"])
    np.savez(tmp_path / "data.npz", images=images, labels=answers, label_names=names)
    config = tiny_config()
    config["data"]["eval"] = {"name": "arrays", "path": str(tmp_path / "data.npz")}
    (tmp_path / "data.py").write_text(f"def get_config(arg=''):\n    return {config!r}\n")
    command = ["evaluate", "--checkpoint", str(path), "--config", str(tmp_path / "data.py")]
    assert main([*command, "--output", f"{tmp_path}/scores/"]) == 0
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["val/accuracy"] == 1.0
    found = sorted(file.name for file in (tmp_path / "scores").iterdir())
    names = ("calibration.csv", "calibration.png", "confusion.csv", "confusion.png", "per_class.csv")
    assert found == ["metrics.json", *(f"val_{name}" for name in names)]


def test_a_label_without_a_class():
    with pytest.raises(UserError, match="labels that the model has no class for"):
        evaluate(64, 1, lambda variables, batch, names, rng: {"logits": jax.nn.one_hot(batch["label"], 4)})


def test_an_output_that_the_task_lacks():
    with pytest.raises(UserError, match="'val' failed: This task does not give 'logits'. It gives samples"):
        evaluate(64, 1, lambda variables, batch, names, rng: chosen(names, {"samples": batch["image"]}))


def test_batch_that_the_devices_cannot_split():
    with pytest.raises(UserError, match="100 examples does not divide over 8 devices"):
        evaluate(100, 8, lambda variables, batch, names, rng: {"logits": jax.nn.one_hot(batch["label"], 10)})
