"""Several real processes are one run: the same numbers as one process, one writer, one step to stop at."""

import json
import signal
import time

import numpy as np
import pytest

from tests.processes import config_file, ended, logs, started
from tests.tiny import tiny_run
from vit_jax.checkpoints.steps import find, steps_in
from vit_jax.checkpoints.store import read_metadata

pytestmark = pytest.mark.usefixtures("as_elsewhere")
# Not AdamW: see test_equivalence.
SGD = {"optim__name": "sgd", "optim__learning_rate": 0.1, "optim__clip_norm": 1.0, "log_every": 1}


def run(folder, processes, devices=1, extra=(), config=None, workdir=None):
    """Trains in so many processes; the status of each."""
    folder.mkdir(exist_ok=True)
    config = config or config_file(folder, **SGD)
    arguments = ["train", "--config", config, "--workdir", workdir or folder / "run", *extra]
    with started(arguments, folder, processes, devices) as running:
        return ended(running)


def rows(workdir, key="train/loss"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[key] for row in lines if key in row}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of one process on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    tiny_run(workdir, **SGD)
    return rows(workdir)


@pytest.mark.long
def test_two_processes_learn_what_one_does_and_stop_and_go_on_in_others(alone, tmp_path):
    assert run(tmp_path, 2, extra=["--config.stop_at=3"]) == [0, 0], logs(tmp_path)
    assert steps_in(tmp_path / "run") == [3]
    # What two processes have saved one process restores, with two devices.
    resumed = tiny_run(tmp_path / "run", devices=2, **SGD, stop_at=5)
    assert resumed["step"] == 5
    assert run(tmp_path, 2) == [0, 0], logs(tmp_path)
    losses = rows(tmp_path / "run")
    assert list(losses) == list(alone)
    np.testing.assert_allclose(list(losses.values()), list(alone.values()), rtol=1e-5)
    lead, other = ((tmp_path / f"log.{i}").read_text() for i in range(2))
    assert "parameters on 2 cpu devices" in lead and "val/accuracy" in lead
    assert "step" not in other and "val/accuracy" not in other


@pytest.mark.slow
def test_ctrl_c_or_sigterm_in_one_process_stops_all_after_the_same_step(tmp_path):
    config = config_file(tmp_path, **SGD, steps=100_000)
    for number, status in ((signal.SIGTERM, [75, 75]), (signal.SIGINT, [130, 130])):
        before = max(steps_in(tmp_path / "run"), default=0)
        with started(["train", "--config", config, "--workdir", tmp_path / "run"], tmp_path, 2) as running:
            _wait_for_step(tmp_path / "run", before + 2, running, tmp_path)
            running[1].send_signal(number)
            assert ended(running) == status, logs(tmp_path)
        [*_, saved] = steps_in(tmp_path / "run")
        assert saved > before and max(rows(tmp_path / "run")) == saved
    assert f"preempted by SIGTERM; saved at step {before}" in (tmp_path / "log.0").read_text()


@pytest.mark.long
def test_a_mistake_in_one_process_is_said_by_all(tmp_path):
    """The workdir is locked by another run, which only process 0 finds out."""
    from etils import epath

    from vit_jax.training.workdir import taken

    with taken(epath.Path(tmp_path / "run")):
        assert run(tmp_path, 2) == [2, 2], logs(tmp_path)
    for i in range(2):
        said = [line for line in (tmp_path / f"log.{i}").read_text().splitlines() if line.startswith("vit_jax: ")]
        assert len(said) == 1 and "is in use by the process" in said[0]


@pytest.mark.long
def test_processes_with_other_configs_are_refused_by_all(tmp_path):
    """Other learning rates would train without a word, other lengths would hang."""
    arguments = ["train", "--config", config_file(tmp_path, **SGD), "--workdir", tmp_path / "run"]
    each = [["--config.optim.learning_rate=0.1"], ["--config.optim.learning_rate=0.2", "--config.steps=5"]]
    with started(arguments, tmp_path, 2, each=each) as running:
        assert ended(running) == [2, 2], logs(tmp_path)
    for i in range(2):
        said = [line for line in (tmp_path / f"log.{i}").read_text().splitlines() if line.startswith("vit_jax: ")]
        assert len(said) == 1, logs(tmp_path)
        assert "Process 1 was started with another config.optim.learning_rate, config.steps than process 0" in said[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # it takes 40 s without a sign of life
@pytest.mark.parametrize(("lost", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_process_that_is_lost_ends_the_others_with_a_sentence(tmp_path, lost, number):
    config = config_file(tmp_path, **SGD, steps=100_000, checkpoint__every=1)
    with started(["train", "--config", config, "--workdir", tmp_path / "run"], tmp_path, 2) as running:
        _wait_for_step(tmp_path / "run", 3, running, tmp_path)
        running[lost].send_signal(number)
        began = time.monotonic()
        assert running[1 - lost].wait(240) == 75, logs(tmp_path)
        assert time.monotonic() - began < 90
    log = (tmp_path / f"log.{1 - lost}").read_text()
    assert log.splitlines()[-1].startswith("vit_jax: Another process of this run was lost") and "Traceback" not in log
    again = steps_in(tmp_path / "run")[-1] + 1
    assert run(tmp_path, 1, config=config, extra=[f"--config.stop_at={again}"]) == [0], logs(tmp_path)


EVALS = {
    "evals__few__name": "fewshot",
    "evals__few__train__name": "digits",
    "evals__few__train__split": "train",
    "evals__few__train__per_class": 6,
    "evals__few__test__name": "digits",
    "evals__few__test__split": "test",
    "evals__few__test__per_class": 5,
    "evals__few__shots": "(1, 2)",
    "evals__near__name": "knn",
    "evals__near__train__name": "digits",
    "evals__near__train__split": "train",
    "evals__near__train__per_class": 6,
    "evals__near__k": 5,
    "evals__linear__name": "linear_probe",
    "evals__linear__train__name": "digits",
    "evals__linear__train__split": "train",
    "evals__linear__train__per_class": 6,
    "evals__sgd__name": "sgd_probe",
    "evals__sgd__train__name": "digits",
    "evals__sgd__train__split": "train",
    "evals__sgd__train__per_class": 6,
    "evals__sgd__epochs": 2,
}


@pytest.mark.slow
def test_evaluators_give_the_same_numbers_in_two_processes(tmp_path):
    tiny_run(tmp_path / "run", **SGD)
    expected = tiny_run(tmp_path / "run", **SGD)
    assert expected["val/examples"] == 50
    config = config_file(tmp_path, **SGD, **EVALS)
    evaluate = ["evaluate", "--checkpoint", tmp_path / "run", "--config", config]
    scores = []
    for processes in (1, 2):
        output = tmp_path / f"scores.{processes}"
        with started([*evaluate, "--output", output], tmp_path, processes) as running:
            assert ended(running) == [0] * processes, logs(tmp_path)
        scores.append(json.loads(output.read_text()))
    one, two = scores
    assert {name.split("/")[0] for name in one} > {"val", "few", "near", "linear", "sgd"}
    assert one.pop("checkpoint") == two.pop("checkpoint")
    assert one == pytest.approx(two, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices", "mesh"),
    [(4, 1, {}), (2, 2, {"data": 2, "tensor": 2}), (4, 2, {"data": 2, "fsdp": 2, "tensor": 2}), (2, 1, {"tensor": 2})],
    ids=["4 processes", "2 processes, 2x2", "4 processes, 2x2x2", "the same rows in both"],
)
def test_meshes_over_processes(alone, tmp_path, processes, devices, mesh):
    extra = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    assert run(tmp_path, processes, devices, extra) == [0] * processes, logs(tmp_path)
    losses = rows(tmp_path / "run")
    np.testing.assert_allclose(list(losses.values()), list(alone.values()), rtol=1e-4)


@pytest.mark.slow
def test_saved_by_two_restored_by_four_and_by_one(alone, tmp_path):
    config = config_file(tmp_path, **SGD)
    for stop, processes, devices, status in ((2, 2, 1, [0, 0]), (4, 4, 1, [0] * 4), (6, 1, 2, [0])):
        extra = [f"--config.stop_at={stop}"]
        assert run(tmp_path, processes, devices, extra, config) == status, logs(tmp_path)
        assert read_metadata(find(tmp_path / "run"))["step"] == stop
    np.testing.assert_allclose(list(rows(tmp_path / "run").values()), list(alone.values()), rtol=1e-4)


def _wait_for_step(workdir, step, running, folder):
    """Until the log has come to a step."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if (workdir / "metrics.jsonl").exists() and any(s >= step for s in _steps(workdir)):
            return
        assert all(process.poll() is None for process in running), logs(folder)
        time.sleep(0.1)
    raise AssertionError(logs(folder))


def _steps(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [int(line.split('"step": ')[1].split(",")[0]) for line in lines if line.endswith("}")]
