"""VTAB from a checkpoint to its score, on made-up sets."""

import json

import cv2
import jax
import numpy as np
import pytest

from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.data.vtab import TASKS
from vit_jax.errors import Diverged
from vit_jax.training import vtab


def made_up(root, tasks):
    """Eight images of each task."""
    rng = np.random.default_rng(0)
    for name in tasks:
        folder = root / name
        (folder / "images").mkdir(parents=True)
        lines = []
        for i in range(8):
            cv2.imwrite(str(folder / "images" / f"{i}.png"), rng.integers(0, 256, (8, 8, 3), np.uint8))
            lines.append(f"images/{i}.png {i % TASKS[name].classes}\n")
        for split, some in (("train800", lines[:4]), ("val200", lines[4:6]), ("train800val200", lines[:6])):
            (folder / f"{split}.txt").write_text("".join(some))
        (folder / "test.txt").write_text("".join(lines[6:]))


def run(tmp_path, *more):
    checkpoint = tmp_path / "checkpoint"
    if not checkpoint.exists():
        untrained(checkpoint, tiny_config(), signed=True)
    given = ["--checkpoint", str(checkpoint), "--data", str(tmp_path / "data"), "--workdir", str(tmp_path / "runs")]
    return main(["vtab", *given, "--config", "vtab:steps=2,batch=4", *more])


@pytest.mark.long
def test_the_best_rate_is_trained_on_everything(tmp_path, monkeypatch, capsys):
    """And what is done is not run again; without any run of its own."""
    made_up(tmp_path / "data", ["svhn", "kitti"])
    done, scores = [], {"lr_0.1": 0.5, "lr_0.2": 0.75, "lr_0.3": 0.75}

    def train(experiment, workdir):
        split = experiment.values["data"]["train"]["split"]
        done.append((workdir.parent.name, workdir.name, split, experiment.values["optim"]["learning_rate"]))
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text(json.dumps(experiment.values))
        measured = {"test/accuracy": 0.25} if workdir.name == "final" else {"val/accuracy": scores[workdir.name]}
        (workdir / "summary.json").write_text(json.dumps({"step": 2, **measured}))
        (workdir / "checkpoints" / "00000002").mkdir(parents=True)
        return measured

    monkeypatch.setattr(vtab, "train", train)
    assert run(tmp_path, "--tasks", "svhn", "kitti", "--rates", "0.3", "0.1", "0.2") == 0
    rates = [("lr_0.1", "train800", 0.1), ("lr_0.2", "train800", 0.2), ("lr_0.3", "train800", 0.3)]
    assert done == [(task, *each) for task in ("svhn", "kitti") for each in (*rates, ("final", "train1000", 0.2))]
    found = json.loads((tmp_path / "runs" / "vtab.json").read_text())
    assert found["groups"] == {"natural": 0.25, "structured": 0.25}
    assert found["tasks"]["kitti"]["rate"] == 0.2 and found["tasks"]["kitti"]["tried"]["0.1"] == 0.5
    assert "mean of structured" in capsys.readouterr().out
    assert run(tmp_path, "--tasks", "svhn", "kitti", "--rates", "0.3", "0.1", "0.2") == 0 and len(done) == 8
    # Some tasks alone leave what was measured of the others, unless that was measured otherwise.
    assert run(tmp_path, "--tasks", "kitti", "--rates", "0.3", "0.1", "0.2") == 0 and len(done) == 8
    assert json.loads((tmp_path / "runs" / "vtab.json").read_text()) == found
    assert capsys.readouterr().out.count("mean of") == 4
    assert run(tmp_path, "--tasks", "kitti", "--rates", "0.2", "--config.seed=5") == 2
    assert "vtab.json has svhn, which was measured with another config" in capsys.readouterr().err
    assert json.loads((tmp_path / "runs" / "vtab.json").read_text()) == found
    assert run(tmp_path, "--tasks", "mnist") == 2 and "VTAB has no task 'mnist'" in capsys.readouterr().err
    assert run(tmp_path, "--rates", "0") == 2 and "no learning rates" in capsys.readouterr().err


def test_a_rate_that_is_too_high_is_not_chosen_and_what_is_not_measured_is_said_first(tmp_path, monkeypatch, capsys):
    """And a run that could not measure at its end is not done."""
    made_up(tmp_path / "data", ["svhn"])
    high, begun = [0.3], []

    def train(experiment, workdir):
        begun.append(workdir.name)
        if experiment.values["optim"]["learning_rate"] in high:
            raise Diverged("The loss or its gradient is not finite since step 1", "try a lower learning rate")
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(json.dumps(experiment.values))
        measured = {"step": 2, "test/accuracy": 0.25, "val/accuracy": 0.5}
        if begun.count("final") == 1 and workdir.name == "final":
            (workdir / "summary.json").write_text(json.dumps({"step": 2, "failed": ["test"]}))
            raise UserError("An image cannot be read")
        (workdir / "summary.json").write_text(json.dumps(measured))
        return measured

    monkeypatch.setattr(vtab, "train", train)
    some = ["--tasks", "svhn", "--rates", "0.1", "0.3"]
    assert run(tmp_path, *some, "--config.evals.val=none") == 2 and "no evaluator 'val'" in capsys.readouterr().err
    assert not begun
    assert run(tmp_path, *some) == 2 and "cannot be read" in capsys.readouterr().err
    assert run(tmp_path, *some) == 0
    assert begun == ["lr_0.1", "lr_0.3", "final", "final"]  # what diverged does so again, and is done
    found = json.loads((tmp_path / "runs" / "vtab.json").read_text())["tasks"]["svhn"]
    assert found["rate"] == 0.1 and found["tried"] == {"0.1": 0.5, "0.3": None} and found["accuracy"] == 0.25
    assert "svhn: The loss or its gradient is not finite" in capsys.readouterr().out
    high.append(0.2)
    assert run(tmp_path, "--tasks", "svhn", "--rates", "0.2", "0.3") == 2
    assert "svhn stays finite with none of the rates" in capsys.readouterr().err


@pytest.mark.long
def test_nineteen_tasks(tmp_path, monkeypatch, capsys):
    """Runs of two steps; stopped in the middle, the same command goes on."""
    on_all = vtab.train
    monkeypatch.setattr(vtab, "train", lambda *args: on_all(*args, jax.devices()[:1]))
    made_up(tmp_path / "data", list(TASKS)[:-1])
    assert run(tmp_path) == 2 and "smallnorb" in capsys.readouterr().err  # before anything is trained
    assert not (tmp_path / "runs").exists()
    made_up(tmp_path / "data", ["smallnorb_ele"])
    assert run(tmp_path, "--tasks", "svhn", "--rates", "0.01", "0.02") == 0
    assert {path.name for path in (tmp_path / "runs" / "svhn").iterdir()} == {"lr_0.01", "lr_0.02", "final"}
    capsys.readouterr()
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "runs" / "vtab.json").read_text())
    assert list(found["tasks"]) == list(TASKS) and set(found["groups"]) == {
        "natural", "specialised", "structured", "mean",
    }  # fmt: skip
    assert found["groups"]["mean"] == pytest.approx(np.mean([each["accuracy"] for each in found["tasks"].values()]))
    assert "VTAB-1k" in out and out.count("on 1,000 images") == 19
