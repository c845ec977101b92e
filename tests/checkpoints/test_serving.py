"""Exported programs: what is read back gives the model's outputs, or nothing was written."""

import dataclasses
import json
import os
import subprocess
import sys
import types
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from etils import epath

import vit_jax
from tests.drawn import drawn
from tests.loaded import loaded_model
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.serving import onnx, stablehlo, writing
from vit_jax.checkpoints.serving.program import Program
from vit_jax.checkpoints.serving.writing import difference, export_program
from vit_jax.commands import export
from vit_jax.commands.main import main
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.models import vit

MODEL = {"name": "vit", "kwargs": {"variant": "mu/4", "num_classes": 3}}


@pytest.fixture(scope="module")
def loaded():
    model = vit.build(variant="mu/4", num_classes=3, width=16, depth=1, mlp_dim=16, pooling="mean")
    params = drawn(model.init, jax.random.key(0), np.zeros((1, 8, 12, 3), np.float32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), params)
    preprocess = Preprocess((8, 12), "short_side", 14, "bicubic")
    return loaded_model(model, params, ("a", "b", "ü"), preprocess, {"model": MODEL, "task": None})


@pytest.fixture(scope="module")
def folder(loaded, tmp_path_factory):
    """Of a program that resizes, for any batch size, written by the command."""
    path = tmp_path_factory.mktemp("served") / "below" / "model"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(export, "open_loaded", lambda arguments: loaded)
        argv = ("--preprocessing", "resize", "--output-name", "logits", "--output-name", "tokens")
        assert main(["export", "x", "--output", str(path), *argv]) == 0
    return path


@pytest.mark.long
def test_outputs_are_the_model_s(loaded, folder, tmp_path):
    exported = vit_jax.load_exported(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "export.json",
        "parameters.safetensors",
        "program.stablehlo",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    image = writing.pictures(np.random.default_rng(1), 1, (23, 40))[0]  # the size that the check had compiled
    photo = tmp_path / "photo.png"
    photo.write_bytes(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
    for given in (photo, photo.read_bytes(), image):
        [(name, probability), *others] = exported.top(given)
        rows = np.asarray(jax.nn.softmax(loaded.logits(np.stack([loaded.preprocess(image)]))))[0]
        assert name == ("a", "b", "ü")[rows.argmax()] and len(others) == 2
        np.testing.assert_allclose(probability, rows.max(), rtol=0.02)  # a pixel may be a level off
    about = json.loads((folder / "export.json").read_text())
    assert about["input"] == {"name": "image", "shape": ["batch", "height", "width", 3], "dtype": "uint8"}
    assert about["outputs"]["tokens"] == {"shape": ["batch", 6, 16], "dtype": "float32"}
    assert about["checked"]["images"] == 10 and about["checked"]["differences"]["logits"] < 1e-5
    assert 0 <= about["checked"]["pixels"] < 0.01


@pytest.mark.long
def test_reading_needs_no_code_of_models(folder):
    program = """
import sys, vit_jax
vit_jax.load_exported(sys.argv[1])
print([name for name in sys.modules if name.startswith(("flax", "vit_jax.models", "vit_jax.nn", "vit_jax.tasks"))])
"""
    run = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


def test_what_differs_is_not_written(loaded, tmp_path, monkeypatch):
    written = stablehlo.write_safetensors
    monkeypatch.setattr(
        stablehlo, "write_safetensors", lambda path, tensors: written(path, {k: 1.001 * x for k, x in tensors.items()})
    )
    with pytest.raises(UserError, match=r"gives other logits than the model, by 0\.\d+ of the largest value where"):
        export_program(Program(loaded, preprocessing="normalize", batch_size=10), tmp_path / "x", "stablehlo")
    assert list(tmp_path.iterdir()) == []


def test_difference():
    ours = np.array([[1.0, -4.0], [2.0, np.inf]])
    assert difference(ours, ours) == 0
    assert difference(ours, ours + np.array([[0.0, 0.0], [0.1, 0.0]])) == pytest.approx(0.025)
    assert difference(ours, ours[:1]) == difference(ours, np.nan_to_num(ours)) == np.inf


@pytest.mark.long
def test_the_server_of_the_manual(folder):
    """docs/serve.py, over loopback: a picture, something else, and too much."""
    command = [sys.executable, str(Path(__file__).parents[2] / "docs" / "serve.py"), str(folder), "--port", "0"]
    picture = cv2.imencode(".jpg", writing.pictures(np.random.default_rng(1), 1, (8, 12))[0])[1].tobytes()

    def post(body, **headers):
        request = urllib.request.Request(address, body, {"Content-Type": "image/jpeg", **headers})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split()[-1]
            status, said = post(picture)
            assert status == 200 and {name for name, _ in said["top"]} == {"a", "b", "ü"}
            names, shares = zip(*vit_jax.load_exported(folder).top(picture), strict=True)
            assert [name for name, _ in said["top"]] == list(names)
            np.testing.assert_allclose([share for _, share in said["top"]], shares, rtol=1e-4)
            assert post(b"no picture")[0] == 400 and "error" in post(b"no picture")[1]
            assert post(b"", **{"Content-Length": "999999999"})[0] == 413
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--format", "tflite"], "There is no --format 'tflite'"),
        (["--platforms", "cpu,gpu"], "There is no platform 'gpu'. Did you mean"),
        (["--platforms", "tpu"], "A program for tpu cannot be compared here, on cpu. Add cpu to --platforms"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--output-name", "colour"], "This task does not give 'colour'. It gives"),
        (["--output-name", "samples"], "Samples are drawn with a seed"),
        (["--output", "full"], "is there already"),
    ],
)
def test_what_cannot_be_exported(loaded, tmp_path, monkeypatch, capsys, argv, sentence):
    monkeypatch.setattr(export, "open_loaded", lambda arguments: loaded)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert main(["export", "x", "--output", "new", *argv]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


@pytest.mark.parametrize(
    ("to", "package", "sentence"),
    [
        ("onnx", "jax2onnx", r"ONNX needs the package jax2onnx\. pip install 'vit_jax\[export-onnx\]'"),
        ("savedmodel", "tensorflow", r"written and read by TensorFlow\. pip install 'vit_jax\[export-savedmodel\]'"),
    ],
)
def test_libraries_that_are_missing(loaded, tmp_path, monkeypatch, to, package, sentence):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=sentence):
        export_program(Program(loaded), tmp_path / "x", to)
    assert list(tmp_path.iterdir()) == []


def test_what_no_onnx_file_can_hold_is_said_before_it_is_converted(loaded, tmp_path, monkeypatch):
    """Beside its parameters a file has operations."""
    program, asked = Program(loaded), []

    class Large:
        def SerializeToString(self):
            raise ValueError("Failed to serialize proto")

    def to_onnx(*_, **__):
        asked.append(1)
        return Large()

    monkeypatch.setitem(sys.modules, "jax2onnx", types.SimpleNamespace(to_onnx=to_onnx))
    size = sum(x.nbytes for x in program.parameters.values())
    monkeypatch.setattr(onnx, "_MOST", size + onnx._GRAPH - 1)
    with pytest.raises(UserError, match=rf"The parameters have {size:,} bytes, and an ONNX file .*\. Use stablehlo"):
        onnx.write(program, tmp_path, ())
    assert not asked
    monkeypatch.setattr(onnx, "_MOST", size + onnx._GRAPH)
    with pytest.raises(UserError, match=r"does not fit into an ONNX file.*\. Use stablehlo"):
        onnx.write(program, tmp_path, ())
    assert asked and list(tmp_path.iterdir()) == []


def test_where_files_lie_here_is_not_exported(loaded, folder):
    here = os.fspath(Path(vit_jax.__file__).parents[1]).encode()
    for path in folder.iterdir():
        assert here not in path.read_bytes() and b"/site-packages/" not in path.read_bytes(), path.name
    for path, name in (("/home/me/run/checkpoints/6", "run/checkpoints/6"), ("/home/me/model.npz", "model.npz")):
        program = Program(dataclasses.replace(loaded, path=epath.Path(path)))
        assert writing._described(program)["checkpoint"] == name


def test_images_of_other_channels_are_prepared_by_the_caller(folder):
    exported = vit_jax.load_exported(folder)
    about = {**exported.about, "preprocessing": "none", "input": {"shape": ["batch", 8, 12, 1], "dtype": "float32"}}
    exported = dataclasses.replace(exported, about=JsonObject(about), run=lambda x: {"logits": x[:, 0, 0]})
    assert exported(np.ones((2, 8, 12, 1), np.float32))["logits"].shape == (2, 1)
    with pytest.raises(UserError, match="takes images of 1 channels, and only those of 3 are prepared"):
        exported.top(np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(UserError, match=r"not float32 \[1, 8, 12, 3\]\. Prepare them so"):
        exported(np.zeros((1, 8, 12, 3), np.float32))


def test_what_cannot_be_read(folder, tmp_path):
    def refused(sentence, **changed):
        (tmp_path / "export.json").write_text(json.dumps({**about, **changed}))
        with pytest.raises(UserError, match=sentence):
            vit_jax.load_exported(tmp_path)

    about = json.loads((folder / "export.json").read_text())
    with pytest.raises(UserError, match=r"holds no export\.json"):
        vit_jax.load_exported(tmp_path)
    refused("has version 3, newer than the 2", version=3)
    refused("names no format: 'pickle'", format="pickle")
    refused("'input.shape' is not that of a batch", input={"shape": [1, 2], "dtype": "uint8"})
    refused("'input.dtype' is neither", input={"shape": ["batch", 8, 12, 3], "dtype": "object"})
    refused(r"program\.stablehlo is missing")
    (tmp_path / "program.stablehlo").write_bytes((folder / "program.stablehlo").read_bytes()[:1000])
    (tmp_path / "parameters.safetensors").write_bytes((folder / "parameters.safetensors").read_bytes())
    refused(r"program\.stablehlo is damaged, or of a newer JAX")
    with pytest.raises(UserError, match=r"takes images uint8 \[batch, height, width, 3\], not float32 \[1, 8, 12, 3\]"):
        vit_jax.load_exported(folder)(np.zeros((1, 8, 12, 3), np.float32))
