"""Runs that go on: nothing that was trained is lost by what is measured, and nothing jumps."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.test_task_contract import BatchNormClassifier, ToyPipeline
from tests.tiny import tiny_config, tiny_experiment, tiny_run
from vit_jax import UserError
from vit_jax.checkpoints.policy import Policy
from vit_jax.checkpoints.steps import find, steps_in
from vit_jax.checkpoints.store import Store, read_metadata, read_params
from vit_jax.errors import Preempted
from vit_jax.evaluators.classification import Classification
from vit_jax.training.config import run_config
from vit_jax.training.evaluation import Evaluation
from vit_jax.training.experiment import Experiment, build_experiment
from vit_jax.training.interrupt import Interrupt
from vit_jax.training.loop import train
from vit_jax.training.run_files import finished
from vit_jax.training.schedules import build, follows_length, laid_out
from vit_jax.training.workdir import write_config

SPEED = {"images_per_second", "images_per_second_per_chip", "data_wait", "productive", "mfu"}


def rows(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in SPEED} for line in lines]


def failing(monkeypatch, times=99):
    """Evaluators named 'bad' fail so many times."""
    real, left = Classification.metrics, [times]

    def metrics(self, run):
        if run.name == "bad" and left[0] > 0:
            left[0] -= 1
            raise UserError("The image of row 7 cannot be read", "Remove it")
        return real(self, run)

    monkeypatch.setattr(Classification, "metrics", metrics)


BAD = {"evals__bad__name": "classification"}


@pytest.mark.long
def test_an_evaluator_that_fails_costs_nothing_but_its_figures(tmp_path, monkeypatch, capfd):
    failing(monkeypatch)
    with pytest.raises(UserError, match="The evaluator 'bad' failed: The image of row 7 cannot be read"):
        tiny_run(tmp_path, eval_every=3, **BAD)
    assert steps_in(tmp_path) == [6]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["step"] == 6 and summary["val/accuracy"] > 0 and "bad/accuracy" not in summary
    values = tiny_config(eval_every=3, **BAD)
    assert summary["failed"] == ["bad"] and finished(epath.Path(tmp_path), values) is None
    assert [r["step"] for r in rows(tmp_path) if "val/accuracy" in r] == [3, 6]
    assert "after step 3: The evaluator 'bad' failed" in capfd.readouterr().err
    monkeypatch.undo()
    again = tiny_run(tmp_path, eval_every=3, **BAD)  # only what failed is measured anew
    assert "bad/accuracy" in again and finished(epath.Path(tmp_path), values) == again
    assert [sorted({k[:3] for k in r if "/" in k}) for r in rows(tmp_path)[-2:]] == [["val"], ["bad"]]


def test_which_runs_are_finished(tmp_path):
    workdir, values = epath.Path(tmp_path), tiny_config()
    assert finished(workdir, values) is None
    write_config(workdir, values)
    (tmp_path / "summary.json").write_text('{"step": 6, "val/accuracy": 0.5}')
    assert finished(workdir, values) == {"step": 6, "val/accuracy": 0.5}
    assert finished(workdir, tiny_config(steps=7)) is None, "it is to be longer"
    assert finished(workdir, tiny_config(seed=4)) is None, "it is another"
    for damaged in ('{"step": 6', "[6]", '{"step": 6, "failed": ["val"]}'):
        (tmp_path / "summary.json").write_text(damaged)
        assert finished(workdir, values) is None


@pytest.mark.slow
def test_a_bug_in_the_final_evaluation_finds_everything_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(Classification, "metrics", lambda self, run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny_run(tmp_path)
    assert steps_in(tmp_path) == [6]
    monkeypatch.undo()
    assert tiny_run(tmp_path)["val/examples"] == 50


def test_the_best_is_kept_though_it_is_known_after_the_save(tmp_path):
    policy = Policy(keep=1, best="val/loss", best_mode="min")
    for begin, end in ((0, 3), (3, 6)):  # the second time it is read from the disk
        store = Store(tmp_path, policy)
        for step, loss in list(enumerate([0.5, 0.2, 0.4, 0.3, 0.6, 0.7], 1))[begin:end]:
            store.save(step, {"a": jnp.ones(2)}, {})
            store.record(step, {"val/loss": loss})
        store.close()
    assert steps_in(tmp_path) == [2, 6]


@pytest.mark.slow
def test_what_was_not_measured_before_a_kill_is_measured_when_the_run_goes_on(tmp_path, monkeypatch):
    every = {"eval_every": 2, "checkpoint__every": 2, "checkpoint__best": "val/loss", "checkpoint__best_mode": "min"}
    tiny_run(tmp_path / "whole", **every)
    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tiny_run(tmp_path / "run", **every)
    assert steps_in(tmp_path / "run") == [2]
    tiny_run(tmp_path / "run", **every)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert (tmp_path / "run" / "checkpoints" / "6" / "measured.json").exists()


@pytest.mark.long
def test_the_log_of_an_interrupted_run_is_that_of_an_uninterrupted_one(tmp_path, monkeypatch):
    settings = {"steps": 12, "log_every": 4, "eval_every": 5, "checkpoint__every": 3}
    tiny_run(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "reached", _after(7))
        with pytest.raises(Preempted):
            tiny_run(tmp_path / "run", **settings)
    tiny_run(tmp_path / "run", **settings)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def _after(steps):
    asked = []

    def reached(self):
        asked.append(1)
        if len(asked) == steps:
            signal.raise_signal(signal.SIGTERM)
        return self._requested is not None

    return reached


@pytest.mark.slow
def test_another_mesh_and_other_evaluators_go_on(tmp_path):
    tiny_run(tmp_path / "one", ema_decay=0.9)
    tiny_run(tmp_path / "run", stop_at=2, ema_decay=0.9)
    changed = {"mesh__data": 1, "mesh__fsdp": 2, "evals__more__name": "knn", "data__num_threads": 1,
               "evals__more__train__name": "digits", "evals__more__train__split": "train", "evals__more__train__per_class": 6}  # fmt: skip
    tiny_run(tmp_path / "run", 2, ema_decay=0.9, **changed)
    ours, theirs = ([r["train/loss"] for r in rows(tmp_path / w) if "train/loss" in r] for w in ("run", "one"))
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    tiny_run(workdir, stop_at=3, log_every=1)
    return workdir


@pytest.mark.long
def test_another_length_needs_extend(stopped, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    before = (run / "config.json").read_text()
    with pytest.raises(UserError, match=r"laid out over 6 steps, and config.steps is 12. --extend stretches"):
        tiny_run(run, steps=12, log_every=1)
    with pytest.raises(UserError, match=r"Set config.stop_at=5 to stop earlier"):
        tiny_run(run, steps=5, log_every=1)
    assert (run / "config.json").read_text() == before


@pytest.mark.long
def test_an_extended_run_has_no_jump_and_goes_on_like_that(stopped, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    train(tiny_experiment(steps=12, stop_at=8, log_every=1), run, jax.devices()[:1], extend=True)
    assert "from 6 to 12 steps: what is left of the schedules is stretched over 9 steps" in capfd.readouterr().err
    tiny_run(run, steps=12, log_every=1)  # from here on that is its length
    rates = [r["train/learning_rate"] for r in rows(run) if "train/loss" in r]
    # Half a cosine over the four steps after the warmup of two; from step 3 on three of its steps last nine.
    places = [2, *(3 + (step - 3) / 3 for step in range(3, 12))]
    assert rates == pytest.approx([0, 5e-3, *(5e-3 * (1 + np.cos(np.pi * (at - 2) / 4)) for at in places)], rel=1e-4)
    assert read_metadata(find(run))["length"] == {"steps": 12, "extensions": [[3, 6]]}


def test_a_schedule_that_is_over_stays_at_its_end():
    schedule = build({"name": "linear", "end": 0.1}, 1.0, 12, "here", ((6, 6),))
    assert [float(schedule(t)) for t in (0, 3, 6, 9, 12)] == pytest.approx([1.0, 0.55, 0.1, 0.1, 0.1])
    twice = ((2, 4), (6, 10))  # at step 6 of 10 the first layout is at 3
    assert [float(laid_out(t, 14, twice)) for t in (1, 2, 6, 10, 14)] == pytest.approx([1, 2, 3, 3.5, 4])


@pytest.mark.parametrize(
    ("optim", "ema", "follows"),
    [({}, 0.9, False), ({"schedule": {"name": "rsqrt"}}, None, False), ({"schedule": {"name": "cosine"}}, None, True),
     ({"schedule": {"name": "constant", "cooldown_steps": 3}}, None, True), ({}, {"name": "cosine"}, True),
     ({"groups": [{}, {"schedule": {"name": "linear"}}]}, None, True)],
)  # fmt: skip
def test_which_schedules_follow_the_length(optim, ema, follows):
    assert follows_length(optim, ema) == follows


def far(rng):
    """Features far from the origin, so that the wrong statistics are plainly wrong."""
    x = (rng.normal(size=(16, 4)) + 30).astype(np.float32)
    return {"x": x, "label": (x[:, 0] > 30).astype(np.int32)}


def run_toy(workdir, **settings):
    values = {
        "seed": 0, "steps": 6, "batch_size": 16, "log_every": 3, "task": {"name": "toy"}, "data": {},
        "optim": {"name": "sgd", "learning_rate": 0.1}, **settings,
    }  # fmt: skip
    experiment = Experiment(run_config(values), values, BatchNormClassifier(), ToyPipeline(far))
    return train(experiment, workdir, jax.devices()[:1])


def test_averaged_parameters_have_averaged_statistics(tmp_path):
    decay, mean, average = 0.9, np.zeros(4), np.zeros(4)
    run_toy(tmp_path, ema_decay=decay)
    for step in range(6):
        mean = 0.5 * mean + 0.5 * far(np.random.default_rng(step))["x"].mean(0)
        average = decay * average + (1 - decay) * mean
    path = find(tmp_path)
    for product, expected in (("params", mean), ("ema", average)):
        np.testing.assert_allclose(
            read_params(path, product)[1]["batch_stats"]["encoder"]["mean"], expected, rtol=1e-5, err_msg=product
        )
    jax.tree.map(np.testing.assert_array_equal, read_params(path)[1], read_params(path, "ema")[1])


def test_a_checkpoint_without_averaged_statistics_goes_on(tmp_path, monkeypatch, capfd):
    real = Store.save
    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", lambda self, step, state, metadata: real(
            self, step, {k: v for k, v in state.items() if k != "ema_model_state"}, metadata))  # fmt: skip
        run_toy(tmp_path, ema_decay=0.9, stop_at=3)
    live = read_params(find(tmp_path), "params")[1]
    jax.tree.map(np.testing.assert_array_equal, read_params(find(tmp_path), "ema")[1], live)
    run_toy(tmp_path, ema_decay=0.9)
    assert "step 3 was saved by an older version, which did not average" in capfd.readouterr().err
    assert not np.array_equal(*(read_params(find(tmp_path), p)[1]["batch_stats"]["encoder"]["mean"]
                                for p in ("params", "ema")))  # fmt: skip


@pytest.mark.long
def test_a_run_of_the_first_format_goes_on_as_it_would_have(tmp_path):
    """Its checkpoint is of step 2 of 4; the figures of step 4 are what the version that wrote it went on to log."""
    with tarfile.open(Path(__file__).parents[1] / "checkpoints/format_1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    summary = train(build_experiment(json.loads((tmp_path / "config.json").read_text())), tmp_path, jax.devices()[:1])
    (line,) = [row for row in rows(tmp_path) if row["step"] == 4 and "train/loss" in row]
    expected = {"train/loss": 2.326568, "train/gradient_norm": 0.5079522, "train/accuracy": 0.0625}
    assert {k: line[k] for k in expected} == pytest.approx(expected, rel=2e-6)
    assert summary["val/loss"] == pytest.approx(2.30089, rel=2e-6)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
@pytest.mark.parametrize("saves", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_saves_leave_nothing_behind(tmp_path, saves):
    store, counts = Store(tmp_path, Policy(keep=1)), []
    for step in range(1, saves + 1):
        store.save(step, {"a": jnp.ones(3)}, {})
        if step % (saves // 4) == 0:
            store.wait()
            memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            counts.append((descriptors(), threading.active_count(), memory))
    store.close()
    (files, threads, memory), (files_then, threads_then, memory_then) = counts[0], counts[-1]
    assert files_then <= files + 1 and threads_then <= threads + 1
    assert saves < 1000 or memory_then < memory + 50e6


READ_ONLY = """
import sys, jax.numpy as jnp
from etils import epath
from vit_jax.checkpoints.policy import Policy
from vit_jax.checkpoints.store import Store
import subprocess
workdir = epath.Path(sys.argv[1])
store = Store(workdir, Policy())
store.save(1, {"a": jnp.ones(3)}, {})
store.wait()
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
try:
    try:
        store.save(2, {"a": jnp.ones(3)}, {})
        store.wait()
    except Exception as error:
        print("save:", type(error).__name__, str(error)[-60:])
    try:
        store.close()
    except Exception:
        pass
    try:
        Store(workdir, Policy())
    except Exception as error:
        print("store:", type(error).__name__, error)
finally:
    subprocess.run(["mount", "-o", "remount,rw", sys.argv[1]], check=True)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_directory_that_cannot_be_made_ends_the_process_at_once(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        began = time.monotonic()
        environment = os.environ | {"PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, tmp_path], capture_output=True, text=True, env=environment, timeout=200,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "save:" in done.stdout and "store: UserError" in done.stdout and "cannot be written" in done.stdout
        assert time.monotonic() - began < 120
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evals__near__name": "knn", "evals__near__k": 61}, "'near' would fail: There are 60 training examples"),
        (
            {"evals__few__name": "fewshot", "evals__few__features": "projections"},
            "'few' would fail: This task does not give 'projections'",
        ),
        (
            {"evals__few__name": "fewshot", "evals__few__features": "maps"},
            "'few' would fail: The output 'maps' is not one array. Choose another one",
        ),
        ({"checkpoint__best": "vall/loss", "checkpoint__every": 2, "eval_every": 2}, "and config.evals has val"),
    ],
)
def test_what_an_evaluator_lacks_is_said_before_the_first_step(tmp_path, changes, message):
    name = next((key.split("__")[1] for key in changes if key.startswith("evals__")), None)
    for role, split in (("train", "train"), ("test", "test")) if name else ():
        own = f"evals__{name}__{role}__"
        changes |= {own + "name": "digits", own + "split": split, own + "per_class": 6}
    with pytest.raises(UserError, match=message):
        tiny_run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_an_unreadable_first_test_image_is_said_before_the_first_step(tmp_path):
    for folder in ("train", "test"):
        for label in "ab":
            (tmp_path / "images" / folder / label).mkdir(parents=True)
            for i in range(4):
                pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)
                cv2.imwrite(str(tmp_path / "images" / folder / label / f"{i}.png"), pixels)
    (tmp_path / "images" / "test" / "a" / "0.png").write_bytes(b"no image")
    data = {f"data__{part}__{key}": value for part, split in (("train", "train"), ("eval", "test"))
            for key, value in (("name", "folder"), ("root", tmp_path / "images"), ("split", split))}  # fmt: skip
    with pytest.raises(UserError, match=r"'val' would fail: .*a/0.png"):
        tiny_run(tmp_path / "run", batch_size=4, **data)
    assert not (tmp_path / "run").exists()
