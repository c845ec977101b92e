"""The command line as a person meets it: help, exit codes, one sentence for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.tiny import tiny_config, trained
from vit_jax.commands.main import main
from vit_jax.data.preprocess import Preprocess


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"))


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(f"def get_config(arg=''):\n    return {tiny_config()!r}\n")
    return path


def complaint(capsys, *argv):
    """Runs a command that must fail, and returns its one sentence."""
    assert main([str(a) for a in argv]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vit_jax: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "visualize", "report", "bench", "demo"])
def test_help_shows_examples(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert f"  vit_jax {command} " in capsys.readouterr().out


@pytest.mark.long
def test_a_process_has_the_exit_status_and_no_traceback(tmp_path):
    argv = [sys.executable, "-m", "vit_jax", "train", "--config", "digit", "--workdir", str(tmp_path / "w")]
    process = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == (
        "vit_jax: There is no config file 'digit', and no shipped config of that name. Did you mean 'digits'?\n"
    )


def test_importing_vit_jax_needs_neither_jax_nor_tensorflow_nor_torch():
    code = "import sys, vit_jax; assert not {'jax', 'tensorflow', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.long
def test_train_writes_and_prints_a_table(capsys, config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a relative workdir, as in the README
    argv = ["train", "--config", str(config_file), "--workdir", "w", "--config.steps", "2",
            "--config.optim.schedule.warmup_steps=1"]  # fmt: skip
    assert main(argv) == 0
    out = capsys.readouterr()
    assert "val/accuracy" in out.out
    assert "step 2/2" in out.err
    assert json.loads((tmp_path / "w" / "config.json").read_text())["steps"] == 2
    assert main(["evaluate", "--checkpoint", "w"]) == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--config.model.variant=B17"], "There is no ViT 'B17'"),
        (["--config.optim.lr=1"], "Unknown key 'config.optim.lr'"),
        (["--config.data.train.root=x", "--config.data.train.name=folder"], "x"),
        (["--config.batch_size=7"], "7 examples does not divide"),
        (["--config.steps"], "--config.steps has no value"),
    ],
)
def test_train_mistakes(capsys, config_file, tmp_path, extra, message):
    assert message in complaint(capsys, "train", "--config", config_file, "--workdir", tmp_path / "w", *extra)
    assert not (tmp_path / "w").exists()


def test_config_file_that_is_none(capsys, tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\n")
    assert "has no function get_config" in complaint(
        capsys, "train", "--config", tmp_path / "broken.py", "--workdir", tmp_path / "w"
    )


@pytest.mark.long
def test_evaluate(capsys, workdir, tmp_path):
    logged = json.loads((workdir / "summary.json").read_text())["val/accuracy"]
    assert main(["evaluate", "--checkpoint", str(workdir), "--output", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["val/accuracy"] == pytest.approx(logged)
    assert "val/accuracy" in capsys.readouterr().out
    assert main(["evaluate", "--checkpoint", str(workdir), "--config.data.eval.per_class=2"]) == 0
    assert "20" in capsys.readouterr().out


@pytest.mark.long
def test_a_checkpoint_is_looked_at_with_another_image_size(capsys, workdir, photos, tmp_path, monkeypatch):
    """12x16 pixels instead of 8x8: 3x4 patches, positions interpolated, and the preprocessing follows."""
    seen = []
    preprocess = Preprocess.to_uint8
    monkeypatch.setattr(Preprocess, "to_uint8", lambda self, x: seen.append(self.image_size) or preprocess(self, x))
    size = ["--checkpoint", str(workdir), "--image-size", "12x16"]
    assert main(["evaluate", *size]) == 0 and "val/accuracy" in capsys.readouterr().out
    assert main(["predict", *size, str(photos)]) == 0
    assert set(seen) == {(12, 16)}
    assert main(["visualize", *size, str(photos / "a.png"), "--output", str(tmp_path / "inside")]) == 0
    assert "--image-size" in complaint(capsys, "predict", "--checkpoint", workdir, "--image-size", "1x2x3", photos)


def test_evaluate_mistakes(capsys, workdir, tmp_path):
    run = ["evaluate", "--checkpoint", workdir]
    other = ["--config", tmp_path / "other.py"]
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 8, 8, 3), np.uint8), labels=np.array([0]), label_names=["x"])
    values = tiny_config() | {"data": tiny_config()["data"] | {"eval": {"name": "arrays", "path": f"{tmp_path}/x.npz"}}}
    (tmp_path / "other.py").write_text(f"def get_config(arg=''):\n    return {values!r}\n")
    assert "The model has no class 'x' among its 10" in complaint(capsys, *run, *other)
    assert "no directory" in complaint(capsys, *run, "--output", tmp_path / "no" / "file.json")
    assert "There is no checkpoint" in complaint(capsys, "evaluate", "--checkpoint", tmp_path / "gone")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos <b>"
    folder.mkdir()
    for i, name in enumerate(("a.png", "b.JPG", "ü.webp")):
        encoded = cv2.imencode("." + name.split(".")[1].lower(), np.full((9, 12, 3), 80 * i, np.uint8))[1]
        (folder / name).write_bytes(encoded.tobytes())
    return folder


def test_predict(capsys, workdir, photos, tmp_path):
    assert main(["predict", "--checkpoint", str(workdir), str(photos), str(photos / "a.png"), "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.count("%") == 3 for line in lines)
    output = tmp_path / "out.jsonl"
    assert main(["predict", "--checkpoint", str(workdir), str(photos), "--top", "10", "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["path"].rsplit("/")[-1] for row in rows] == ["a.png", "b.JPG", "ü.webp"]
    for row in rows:
        probabilities = [p for _, p in row["predictions"]]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert probabilities == sorted(probabilities, reverse=True)


def test_predict_names_what_it_leaves_out(capsys, workdir, photos):
    (photos / "broken.jpg").write_bytes((photos / "b.JPG").read_bytes()[:100])
    assert main(["predict", "--checkpoint", str(workdir), str(photos)]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "1 of 4 images were left out" in captured.err and "broken.jpg" in captured.err


def test_predict_mistakes(capsys, workdir, tmp_path):
    (tmp_path / "empty").mkdir()
    run = ["predict", "--checkpoint", workdir]
    assert "There are no images below" in complaint(capsys, *run, tmp_path / "empty")
    assert "There is no image" in complaint(capsys, *run, tmp_path / "gone.png")
    assert "at least 1" in complaint(capsys, *run, tmp_path / "empty", "--top", "0")


def test_nothing_is_imported_from_the_current_directory(tmp_path):
    """It may be a folder that somebody sent, with a module in it named like one of ours or of those that we use."""
    for name in ("ml_collections", "numpy", "vit_jax_extra"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of the current directory ran')")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "vit_jax", "report", "gone"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and ran.stderr.startswith("vit_jax: There is no directory gone"), ran.stderr
