"""Checkpoints of format 1, as runs wrote them before a checkpoint held its task, go on working."""

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import vit_jax
from vit_jax import UserError
from vit_jax.checkpoints import store
from vit_jax.checkpoints.description import rebuilt, upgraded
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.transfer import starting_point
from vit_jax.commands.main import main
from vit_jax.models.probed import Probed

IMAGE = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
# What the code that wrote them made of this image.
LOGITS = [0.004038, -0.00038, 0.032522, 0.023747, -0.014544, -0.064269, 0.000144, -0.011437, -0.005133, 0.035312]
FEATURES = [0.59872, 0.135233, 0.099429, 0.0, 0.049283, 0.0]


@pytest.fixture(scope="module", params=["classify", "simclr_v2"])
def run(request, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param)
    with zipfile.ZipFile(Path(__file__).parent / "format1" / f"{request.param}.zip") as archive:
        archive.extractall(workdir)
    return request.param, workdir


def test_it_loads_and_computes_what_it_did(run):
    name, workdir = run
    assert store._described(find(workdir))[0]["format"] == 1
    loaded = vit_jax.load(workdir)
    batch = loaded.preprocess(IMAGE)[None]
    found, wanted = {
        "classify": lambda: (loaded.logits(batch), LOGITS),
        "simclr_v2": lambda: (loaded.features(batch), FEATURES),
    }[name]()
    np.testing.assert_allclose(found[0], wanted, atol=2e-6)
    # The bytes of a batch are prepared as evaluation does.
    key = "logits" if name == "classify" else "features"
    np.testing.assert_array_equal(loaded.outputs({"image": IMAGE[None]}, key)[key], found)
    with pytest.raises(UserError, match="This task does not give 'samples'. It gives "):
        loaded.outputs(batch, ("samples",))


def test_evaluate_gives_what_training_logged(run, tmp_path, capsys):
    name, workdir = run
    assert main(["evaluate", "--checkpoint", str(workdir), "--output", str(tmp_path / "scores.json")]) == 0
    logged = {k: v for k, v in json.loads((workdir / "summary.json").read_text()).items() if "/" in k}
    found = json.loads((tmp_path / "scores.json").read_text())
    assert {k: round(found[k], 6) for k in logged} == logged
    assert "projected/accuracy" in logged or name == "classify"


def test_predict(run, tmp_path, capsys):
    name, workdir = run
    cv2.imwrite(str(tmp_path / "image.png"), IMAGE[..., ::-1])
    status = main(["predict", "--checkpoint", str(workdir), str(tmp_path / "image.png"), "--top", "2"])
    captured = capsys.readouterr()
    if name == "classify":
        assert status == 0 and captured.out == f"{tmp_path}/image.png: 9 10.4%, 2 10.3%\n"
    else:
        assert status == 2 and "This task gives no answers that could be written" in captured.err


def test_what_was_called_projected(run):
    name, workdir = run
    metadata = store.read_metadata(find(workdir))
    kept = {"name": "probed", "norm": "none", "frozen": False, "projection": 1, "hidden": 6}
    trunk = {"name": "resnet", "variant": "18", "depths": [1], "width": 4, "stem": "cifar"}
    if name == "simclr_v2":
        assert metadata["task"]["name"] == "simclr" and starting_point(str(workdir))[0] == {**kept, "trunk": trunk}
        return
    # Fine-tuned, and under a linear probe.
    projected = {"name": "projected", "trunk": trunk, "layers": 1, "hidden": 6}
    for section in (projected, {"name": "probed", "norm": "batch", "trunk": projected}):
        own = {key: value for key, value in section.items() if key != "name"}
        old = {**metadata, "format": 1, "model": {"name": section["name"], "kwargs": {**own, "num_classes": 10}}}
        for config in ({**metadata["config"], "model": section}, {}):
            task, _ = rebuilt(upgraded({**old, "config": config}), workdir)
            inner = task.model if section is projected else task.model.trunk
            assert isinstance(inner, Probed) and (inner.projection, inner.frozen) == (1, False)
            assert task.num_classes == 10


def test_feature_maps_are_given_where_they_are_named(run):
    name, workdir = run
    loaded = vit_jax.load(workdir)
    if name == "classify":
        images = np.zeros((1, 8, 8, 3), np.float32)
        assert {s: m.shape for s, m in loaded.outputs(images, ("maps",))["maps"].items()} == {4: (1, 2, 2, 8)}
        assert "maps" not in loaded.outputs(images)
