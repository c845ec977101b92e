"""Segmentation: its loss against NumPy, pixels without a class, and a run through a plain config."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.palettes import colors_for
from vit_jax.data.preprocess import Preprocess
from vit_jax.nn.resize import resize_bilinear
from vit_jax.tasks import DataInfo
from vit_jax.tasks.segment import build
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.metrics import round_off

MODEL = {
    "name": "segmenter",
    "trunk": {"name": "vit", "variant": "mu/4", "depth": 2, "pooling": "mean"},
    "head": {"name": "linear", "last": 2},
}  # fmt: skip
FIELDS = {"image": {"name": "image"}, "segmentation": {"name": "dense", "count": 3}}
NAMES = ("ground", "disc", "bar")


def data_info(**fields):
    return DataInfo((16, 16), NAMES, build_fields({**FIELDS, **fields}, Context(Preprocess((16, 16)), NAMES)))


@pytest.fixture(scope="module")
def made():
    """A task with class weights, random variables, a batch in which one image has no class, and the jitted loss."""
    task = build(model=MODEL, data=data_info(), class_weights={"disc": 2.0})
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (4, 16, 16)).astype(np.int32)
    label[0, :9] = 255
    label[2] = 255
    batch = {"image": rng.normal(size=(4, 16, 16, 3)).astype(np.float32), "segmentation": label}
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
    variables = jax.tree.map(lambda x: rng.uniform(-0.5, 0.5, x.shape).astype(np.float32), shapes)
    run = jax.jit(
        lambda params, batch: jax.value_and_grad(
            lambda p: task.loss({**variables, "params": p}, batch, jax.random.key(1), jnp.int32(0)), has_aux=True
        )(params)
    )
    return task, variables, batch, run


@pytest.mark.long
def test_the_loss_is_the_mean_over_images_of_the_mean_over_their_pixels(made):
    task, variables, batch, run = made
    (loss, (metrics, state)), _ = run(variables["params"], batch)
    collections = {"params": variables["params"], **variables["model_state"]}
    outputs, _ = jax.jit(lambda v, x: task.model.apply(v, x, train=True, mutable=["batch_stats"]))(
        collections, batch["image"]
    )
    total, right, known = [], 0, 0
    for logits, label in zip(np.asarray(outputs["mask_logits"], np.float64), batch["segmentation"], strict=True):
        logits = resize_bilinear(logits, (16, 16), align_corners=False)
        terms = []
        for row, wanted in zip(logits.reshape(-1, 3), label.reshape(-1), strict=True):
            if wanted != 255:
                terms.append((np.log(np.exp(row).sum()) - row[wanted]) * (2.0 if wanted == 1 else 1.0))
                right, known = right + (row.argmax() == wanted), known + 1
        total.append(np.mean(terms) if terms else 0.0)
    assert total[2] == 0
    np.testing.assert_allclose(loss, np.mean(total), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (np.sum(total), 3), rtol=1e-5)
    np.testing.assert_allclose(metrics["pixel_accuracy"], (right, known), rtol=1e-5)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state, variables["model_state"])
    assert all(jax.tree.leaves(moved))


def test_images_without_a_class_teach_nothing_and_are_no_nan(made):
    """The third image may be anything but for its part in the batch's statistics, which the head alone has."""
    _, variables, batch, run = made
    (loss, (metrics, _)), gradient = run(
        variables["params"], {**batch, "segmentation": np.full((4, 16, 16), 255, np.int32)}
    )
    assert loss == 0 and metrics["loss"] == (0, 0) and metrics["pixel_accuracy"] == (0, 0)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


def test_class_maps_are_of_the_image_s_size_and_answered_in_the_colours(made):
    task, variables, batch, _ = made
    found = jax.jit(lambda v: task.outputs(v, batch, frozenset({"mask_logits", "class_map"}), None))(variables)
    assert found["mask_logits"].shape == (4, 4, 4, 3) and found["class_map"].shape == (4, 16, 16)
    logits = resize_bilinear(np.asarray(found["mask_logits"][1]), (16, 16), align_corners=False)
    np.testing.assert_array_equal(found["class_map"][1], logits.argmax(-1))
    pictures = task.answers({"class_map": found["class_map"]}, {})
    np.testing.assert_array_equal(pictures[1][3, 5], colors_for(NAMES)[int(found["class_map"][1, 3, 5])])
    assert pictures[1].shape == (16, 16, 3) and pictures[1].dtype == np.uint8


@pytest.mark.parametrize(
    "fields, weights, message",
    [
        ({"segmentation": {"name": "dense", "count": 4}}, None, "names 3 classes, and .*segmentation counts 4"),
        ({"segmentation": {"name": "dense"}}, None, "has no fields with a class for each pixel"),
        ({"other": {"name": "dense", "count": 3}}, None, "has 2 fields with a class for each pixel"),
        ({}, {"dics": 2.0}, "Did you mean 'disc'"),
        ({}, [1.0, 2.0], "2 weights for 3 classes"),
    ],
)
def test_data_that_does_not_fit_is_said(fields, weights, message):
    with pytest.raises(UserError, match=message):
        build(model=MODEL, data=data_info(**fields), class_weights=weights)


def scenes(count=24, size=20, seed=0):
    """Discs and bars on the ground, in colours of their own, and the class of each pixel."""
    rng, images, labels = np.random.default_rng(seed), [], []
    for _ in range(count):
        image, label = np.full((size, size, 3), (30, 40, 60), np.uint8), np.zeros((size, size), np.uint8)
        cv2.circle(label, tuple(rng.integers(5, size - 5, 2).tolist()), 4, 1, -1)
        left = int(rng.integers(0, size - 4))
        label[:, left : left + 5] = 2
        image[label == 1], image[label == 2] = (220, 60, 30), (40, 220, 90)
        label[0] = 255
        images.append(image)
        labels.append(label)
    return np.stack(images), np.stack(labels)


def plain(folder, **more):
    """A plain config on such scenes."""
    images, labels = scenes()
    path = folder / "scenes.npz"
    np.savez(path, images=images, segmentation=labels, label_names=NAMES)
    source = {"name": "arrays", "path": str(path), "fields": ["segmentation"]}
    return {
        "seed": 0, "steps": 80, "batch_size": 8, "log_every": 40, "task": {"name": "segment"}, "model": MODEL,
        "data": {
            "image_size": [16, 16], "train": source, "eval": source, "num_threads": 0, "fields": FIELDS,
            "transform": {"name": "supervised", "area": [0.6, 1.0]},
        },
        # To 0, or what the last steps happen to do decides what evaluation finds.
        "optim": {"name": "adamw", "learning_rate": 0.02, "schedule": {"name": "cosine"}},
        "evals": {"val": {"name": "segmentation"}}, **more,
    }  # fmt: skip


@pytest.mark.long
def test_a_segmenter_through_training_evaluate_and_predict(tmp_path):
    workdir = tmp_path / "run"
    train(build_experiment(plain(tmp_path)), workdir, jax.devices()[:1])
    logged = {
        k: v for line in (workdir / "metrics.jsonl").read_text().splitlines() for k, v in json.loads(line).items()
    }
    assert logged["val/miou"] > 0.5 and logged["val/pixel_accuracy"] > 0.8
    assert logged["val/images"] == 24
    output = tmp_path / "scores.json"
    assert main(["evaluate", "--checkpoint", str(workdir), "--output", str(output)]) == 0
    scores = json.loads(output.read_text())
    assert round_off(scores["val/miou"]) == logged["val/miou"]
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), scenes(1, seed=7)[0][0, ..., ::-1])
    assert main(["predict", "--checkpoint", str(workdir), str(photo), "--output", f"{tmp_path}/maps/"]) == 0
    (written,) = (tmp_path / "maps").iterdir()
    picture = cv2.imread(str(written))[..., ::-1].reshape(-1, 3)
    assert {tuple(c) for c in picture.tolist()} <= {tuple(c) for c in colors_for(NAMES).tolist()}
    loaded = vit_jax.load(workdir)
    assert loaded.labels == NAMES and loaded.task.downstream["name"] == "vit"
    # A trunk goes on from a segmenter as from any other model.
    alone = vit_jax.load(workdir, part="encoder")
    assert set(alone.params) == {"encoder"}
