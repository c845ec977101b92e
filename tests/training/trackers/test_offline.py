"""Weights & Biases and MLflow without a network: what their own readers find afterwards."""

import dataclasses
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath

from vit_jax import UserError
from vit_jax.training.metrics import Writer
from vit_jax.training.trackers import build_trackers
from vit_jax.training.tracking import check_trackers, known_ids

pytestmark = pytest.mark.oracle
CONFIG = {"seed": 3, "optim": {"learning_rate": 1e-3, "groups": {"head/.*": {"scale": 2.0}}}}


@pytest.fixture(autouse=True)
def nobody_s_keys(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def twice(workdir, trackers):
    """A run of four lines that is stopped after the second and goes on."""
    check_trackers(trackers, workdir)
    with pytest.raises(KeyboardInterrupt), Writer(workdir, 0, trackers=trackers, config=CONFIG) as writer:
        for step in (1, 2):
            writer.write(step, {"train/loss": 1 / step, "train/learning_rate/head/.*": 0.5})
        raise KeyboardInterrupt
    with Writer(workdir, 2, trackers=trackers, config=CONFIG) as writer:
        for step in (3, 4):
            writer.write(step, {"train/loss": 1 / step, "val/accuracy": step / 8})


def test_wandb(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    workdir = epath.Path(tmp_path / "run")
    workdir.mkdir()
    twice(workdir, build_trackers({"wandb": {"project": "tests"}}))
    run_id = known_ids(workdir)["wandb"]
    # Two offline parts of one id, which `wandb sync` makes one run of; the second of one second is called ID-1.
    parts = sorted(Path(workdir, "wandb").glob(f"offline-run-*-{run_id}*"))
    assert len(parts) == 2 and f"wandb follows this run as {run_id}: {workdir}" in capsys.readouterr().err
    until = time.monotonic() + 30  # a process of wandb's own writes them, and may be behind
    while True:
        history = [row for part in parts for row in _wandb_history(next(part.glob("*.wandb")))]
        if len(history) == 4 or time.monotonic() > until:
            break
        time.sleep(0.1)
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    assert [row["train/loss"] for row in history] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert history[0]["train/learning_rate/head/.*"] == 0.5 and history[3]["val/accuracy"] == 0.5


def _wandb_history(path):
    """The logged rows of a transaction log: after seven bytes records, each behind its CRC, length and type (1: whole)."""
    from wandb.proto import wandb_internal_pb2

    log, at, rows = path.read_bytes(), 7, []
    while at + 7 <= len(log):
        _, length, kind = struct.unpack_from("<IHB", log, at)
        assert kind == 1 or length == 0  # more than 32 kB would come in parts
        record = wandb_internal_pb2.Record.FromString(log[at + 7 : at + 7 + length])
        at += 7 + length
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def test_wandb_without_a_key_is_refused_before_training(tmp_path):
    """In a process of its own: the library asks for keys once."""
    pytest.importorskip("wandb")
    code = "from vit_jax.training.trackers import build_trackers; build_trackers('wandb')['wandb'].check()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "UserError" in ended.stderr and "there is no key for Weights & Biases. Run 'wandb login'" in ended.stderr


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", exc_type=ImportError)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    workdir, uri = epath.Path(tmp_path / "run"), (tmp_path / "store").as_uri()
    workdir.mkdir()
    tracker = build_trackers({"mlflow": {"experiment": "tests", "uri": uri}})
    twice(workdir, tracker)
    client = mlflow.MlflowClient(uri)
    (experiment,) = (each for each in client.search_experiments() if each.name == "tests")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == known_ids(workdir)["mlflow"] and run.info.run_name == "run"
    assert run.info.status == "FINISHED" and run.data.params["optim.learning_rate"] == "0.001"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(1, 1), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    assert run.data.metrics["train/learning_rate/head/._"] == 0.5 and run.data.metrics["val/accuracy"] == 0.5


def test_mlflow_without_a_place(monkeypatch):
    pytest.importorskip("mlflow", exc_type=ImportError)
    tracker = build_trackers("mlflow")["mlflow"]
    with pytest.raises(UserError, match="nothing says where it keeps its runs. Set MLFLOW_TRACKING_URI"):
        tracker.check()
    with pytest.raises(UserError, match="MLflow cannot open the store nonsense://x"):
        dataclasses.replace(tracker, uri="nonsense://x").check()


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"cannot be imported.*pip install 'vit_jax\[wandb\]'"):
        build_trackers("wandb")["wandb"].check()
