"""Detection: boxes, the matching, the loss against NumPy, average precision, and a tiny run through config and command."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.evaluators import detection
from vit_jax.evaluators.instance import read_detections
from vit_jax.models import yolos
from vit_jax.nn.box_loss import centred, corners, generalized_iou
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.parameter_count import parameter_count
from vit_jax.tasks import DataInfo
from vit_jax.tasks.detect import Weights, build, matched
from vit_jax.training.config import load_config
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

TRUNK = {"name": "vit", "variant": "Ti/8", "width": 12, "depth": 2, "num_heads": 2, "mlp_dim": 16}
MODEL = {"name": "yolos", "trunk": TRUNK, "num_detections": 6, "mid_positions": True}


def task_of(count=4, classes=3, **model):
    fields = {"image": {"name": "image"}, "boxes": {"name": "boxes", "count": count, "classes": classes}}
    data = DataInfo((16, 24), ("none", "cat", "dog"), build_fields(fields, Context(Preprocess((16, 24)))))
    return build(model={**MODEL, **model}, data=data)


def random_boxes(rng, *shape):
    ends = np.sort(rng.uniform(0, 1, (*shape, 2, 2)), axis=-2)
    return np.concatenate([ends[..., 0, :], ends[..., 1, :]], axis=-1).astype(np.float32)


def giou(a, b):
    """Of two boxes of corners, as the paper writes it."""
    inside = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - inside
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inside / union - (around - union) / around


def test_boxes():
    rng = np.random.default_rng(0)
    first, second = random_boxes(rng, 50), random_boxes(rng, 50)
    np.testing.assert_allclose(corners(centred(first)), first, atol=1e-6)
    found = generalized_iou(first, second)
    np.testing.assert_allclose(found, [giou(a, b) for a, b in zip(first, second, strict=True)], atol=1e-5)
    point = np.float32([0.5, 0.5, 0.5, 0.5])
    value, gradient = jax.value_and_grad(lambda box: generalized_iou(box, point))(point)
    assert value == 0 and np.isfinite(gradient).all()


@pytest.fixture(scope="module")
def example():
    """Two images, of four boxes at most, one of them without any."""
    task, rng = task_of(), np.random.default_rng(1)
    batch = {
        "image": rng.normal(size=(3, 16, 24, 3)).astype(np.float32),
        "boxes": random_boxes(rng, 3, 4) * np.float32([24, 16, 24, 16]),
        "boxes_class": rng.integers(0, 3, (3, 4)).astype(np.int32),
        "boxes_valid": np.array([[1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]], bool),
    }
    params = init_shapes(task.init, jax.random.key(0), batch)["params"]
    params = jax.tree.map(lambda leaf: jnp.float32(rng.normal(0, 0.3, leaf.shape)), params)
    return task, {"params": params, "model_state": {}}, batch


@pytest.mark.long
def test_the_loss_is_that_of_the_best_matching(example):
    task, variables, batch = example

    def loss(params, batch):
        value, (metrics, _) = task.loss({"params": params, "model_state": {}}, batch, jax.random.key(0), 0)
        return value, (metrics, task.model.apply({"params": params}, batch["image"]))

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (metrics, outputs)), gradient = run(variables["params"], batch)
    totals = []
    for i in range(3):
        logits = np.float64(outputs["detection_logits"][i])
        log_shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        boxes = np.float64(corners(outputs["detection_boxes"][i]))
        kept = np.flatnonzero(batch["boxes_valid"][i])
        wanted = batch["boxes"][i][kept] / np.float64([24, 16, 24, 16])
        kinds = batch["boxes_class"][i][kept]
        far = np.abs(np.float64(outputs["detection_boxes"][i])[:, None] - np.float64(centred(wanted))[None]).sum(-1)
        overlap = np.array([[giou(a, b) for b in wanted] for a in boxes]).reshape(6, len(kept))
        cost = 5 * far - 2 * overlap - np.exp(log_shares)[:, kinds]
        rows, columns = linear_sum_assignment(cost)
        target = np.full(6, 3)
        target[rows] = kinds[columns]
        weight = np.where(target == 3, 0.1, 1.0)
        total = -(weight * log_shares[np.arange(6), target]).sum() / weight.sum()
        total += (5 * far[rows, columns] + 2 * (1 - overlap[rows, columns])).sum() / max(len(kept), 1)
        totals.append(total)
    assert value == pytest.approx(np.mean(totals), rel=1e-4)
    assert float(metrics["loss"][0]) == pytest.approx(np.sum(totals), rel=1e-4) and metrics["loss"][1] == 3
    parts = {name: float(part) for name, (part, _) in metrics.items()}
    assert parts["class_loss"] + 5 * parts["l1"] + 2 * parts["giou"] == pytest.approx(parts["loss"], rel=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    # What stands where no box is, and how many such places there are, is nothing to the loss.
    other = {**batch, "boxes": np.where(batch["boxes_valid"][..., None], batch["boxes"], 7.0).astype(np.float32)}
    assert run(variables["params"], other)[0][0] == pytest.approx(float(value), rel=1e-6)


def test_a_matching_comes_to_an_end_whatever_the_network_says():
    boxes = jnp.full((3, 4), jnp.nan)
    given = jax.jit(matched, static_argnums=5)(
        jnp.full((3, 4), jnp.nan), boxes, random_boxes(np.random.default_rng(0), 2), jnp.zeros(2, int),
        jnp.array([True, False]), Weights(),
    )  # fmt: skip
    assert sorted(given.tolist())[0] == 0 and (given == 2).sum() == 2


def test_outputs_are_in_pixels_and_the_surest_come_first(example):
    task, variables, batch = example
    names = frozenset({"boxes", "scores", "classes", "detection_boxes", "detection_logits", "features", "maps"})
    found = jax.jit(task.outputs, static_argnums=2)(variables, batch, names, None)
    assert found["features"].shape == (3, 12) and found["maps"][8].shape == (3, 2, 3, 12)
    shares = np.asarray(jax.nn.softmax(found["detection_logits"]))[..., :3]
    scores = np.asarray(found["scores"])
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(np.sort(shares.max(-1), axis=1)[:, ::-1], scores, rtol=1e-6)
    best = shares.max(-1).argmax(1)
    edges = np.clip(corners(np.asarray(found["detection_boxes"])[np.arange(3), best]), 0, 1) * [24, 16, 24, 16]
    np.testing.assert_allclose(np.asarray(found["boxes"])[:, 0], edges, rtol=1e-5)
    text = task.answers({"boxes": edges[:1, None], "scores": np.array([[0.9]]), "classes": np.array([[2]])}, {})
    assert text[0].startswith("dog 90% at ") and task.answers(
        {"boxes": edges[:1, None], "scores": np.array([[0.2]]), "classes": np.array([[2]])}, {}
    ) == ["nothing"]


def test_blocks_in_a_scan_get_the_positions_between_them_too(example):
    task, variables, batch = example
    plain = jax.jit(task.model.apply)({"params": variables["params"]}, batch["image"])
    scanned = task_of(trunk={**TRUNK, "scan": True}).model
    found = jax.jit(scanned.apply)({"params": variables["params"]}, batch["image"])
    np.testing.assert_allclose(found["detection_boxes"], plain["detection_boxes"], atol=1e-6)
    moved = {**variables["params"], "mid_pos_embedding": -variables["params"]["mid_pos_embedding"]}
    other = jax.jit(task.model.apply)({"params": moved}, batch["image"])
    assert np.abs(other["detection_boxes"] - plain["detection_boxes"]).max() > 1e-3


@pytest.mark.parametrize(
    ("variant", "size", "mid", "count"),
    [("Ti/16", (800, 1328), False, 6_488_736), ("S/16", (512, 864), True, 30_684_768)],
)
def test_published_sizes(variant, size, mid, count):
    model = yolos.build({"name": "vit", "variant": variant}, num_classes=91, mid_positions=mid)
    assert parameter_count(model, size) == count


def row(image, kind, box, score=None):
    return {"image_id": image, "category_id": kind, "bbox": box} | ({} if score is None else {"score": score})


def test_average_precision_of_what_is_known():
    """Two images with a cat each. The surest answer is wrong, the next two find one cat each, one of them at an overlap
    of .8: precision is 2/3 at every recall up to the best, and for the overlaps above .8 one of three finds."""
    pytest.importorskip("pycocotools")
    wanted = [row(1, 0, [0, 0, 10, 10]), row(2, 0, [0, 0, 10, 10])]
    assert detection.average_precision(2, wanted, [{**one, "score": 0.5} for one in wanted])["ap"] == pytest.approx(1)
    found = [row(1, 0, [50, 50, 9, 9], 0.9), row(1, 0, [0, 0, 10, 10], 0.8), row(2, 0, [0, 0, 10, 8], 0.7)]
    measured = detection.average_precision(2, wanted, found)
    assert measured["ap50"] == pytest.approx(2 / 3, abs=1e-6) and measured["ap75"] == pytest.approx(2 / 3, abs=1e-6)
    # Above .8 the recall that is reached is a half: 51 of the 101 places have a precision of 1/2, the others of 0.
    above = 51 / 101 * 1 / 2
    assert measured["ap"] == pytest.approx((7 * 2 / 3 + 3 * above) / 10, abs=1e-6)
    assert detection.average_precision(2, wanted, [row(1, 5, [0, 0, 9, 9], 0.9)])["ap"] == 0


def config():
    """A run of four steps on drawn shapes."""
    return load_config("composites_detect:smoke")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("pycocotools")
    workdir = tmp_path_factory.mktemp("detect")
    train(build_experiment(config()), workdir, jax.devices()[:1])
    return workdir


@pytest.mark.long
def test_a_run_measures_average_precision(run):
    summary = json.loads((run / "summary.json").read_text())
    assert {"val/ap", "val/ap50", "val/ap75", "val/recall"} < set(summary) and summary["val/images"] == 8
    assert summary["val/boxes"] >= 8


@pytest.mark.long
def test_detect_writes_boxes_in_pixels_of_the_photo(run, tmp_path, capsys):
    photo = np.random.default_rng(0).integers(0, 256, (90, 200, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    given = ["detect", "--checkpoint", str(run), str(tmp_path / "photo.png"), "--threshold", "0"]
    assert main([*given, "--output", str(tmp_path / "found")]) == 0
    lines = capsys.readouterr().out.splitlines()
    [found] = json.loads((tmp_path / "found/detections.json").read_text())
    assert (found["width"], found["height"]) == (200, 90) and len(found["detections"]) == len(lines) == 20
    boxes = np.array([one["box"] for one in found["detections"]])
    assert (boxes >= 0).all() and (boxes <= [200, 90, 200, 90]).all() and boxes[:, 2].max() > 64
    assert {one["class"] for one in found["detections"]} <= {"background", "disc", "square", "triangle"}
    assert cv2.imread(str(tmp_path / "found/photo.png")).shape == (90, 200, 3)
    # The same as results of COCO, which its own evaluation reads.
    names = ("background", "disc", "square", "triangle")
    listed = {
        "images": [{"id": 17, "file_name": "photo.png", "width": 200, "height": 90}],
        "categories": [{"id": 10 + k, "name": name} for k, name in enumerate(names)],
        "annotations": [],
    }
    coco, written = tmp_path / "list.json", tmp_path / "found/results.json"
    given += ["--output", str(tmp_path / "found"), "--coco", str(coco)]
    coco.write_text(json.dumps(listed))
    assert main(given) == 0
    assert [row["image_id"] for row in read_detections(str(written))] == [17] * 20
    for row, one in zip(json.loads(written.read_text()), found["detections"], strict=True):
        left, top, width, height = row["bbox"]
        np.testing.assert_allclose([left, top, left + width, top + height], one["box"], atol=0.06)
        assert one["class"] == names[row["category_id"] - 10]
    for changed, said in (
        ({"images": [{**listed["images"][0], "file_name": "b.png"}]}, "lists no image called photo.png"),
        ({"categories": [{"id": 5, "name": "a cat"}]}, "a category that"),
    ):
        coco.write_text(json.dumps(listed | changed))
        assert main(given) == 2 and said in capsys.readouterr().err
    given = given[:-4]
    assert main([*given[:-1], "1.5"]) == 2 and "--threshold is 1.5. Give a share" in capsys.readouterr().err


def test_what_does_not_fit():
    with pytest.raises(UserError, match="may have 9 boxes, and the model has 6 tokens for them"):
        task_of(count=9)
    with pytest.raises(UserError, match="boxes have no classes"):
        task_of(classes=0)
    with pytest.raises(UserError, match="trunk of YOLOS has no other token before the patches"):
        yolos.build({**TRUNK, "num_registers": 2}, num_classes=2)
    with pytest.raises(UserError, match="trunk of YOLOS is a ViT"):
        yolos.build({"name": "swin"}, num_classes=2)


def test_without_pycocotools_or_boxes_there_is_no_average_precision(monkeypatch):
    class Run:
        def __call__(self, pipeline):
            none = {"boxes": np.zeros((1, 2, 4)), "boxes_class": np.zeros((1, 2), int), "boxes_valid": np.zeros((1, 2))}
            found = {
                "found_boxes": np.zeros((1, 3, 4)),
                "found_scores": np.ones((1, 3)),
                "found_classes": np.zeros((1, 3)),
            }
            return iter([{"valid": np.ones(1), **none, **found}])

    with pytest.raises(UserError, match="No image of the evaluation data has a box"):
        detection.Detection(None).metrics(Run())
    monkeypatch.setattr(detection.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs pycocotools, which is not installed. pip install 'vit_jax\[dense\]'"):
        detection.build(lambda **_: None)
