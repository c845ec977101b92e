"""Runs that are killed: whatever the moment, the same command ends with the same parameters, bit for bit."""

import json
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from tests.processes import PATIENCE, config_file, start
from tests.tiny import tiny_run
from vit_jax.checkpoints.steps import find, steps_in
from vit_jax.checkpoints.store import read_metadata, read_params
from vit_jax.errors import Preempted
from vit_jax.training.interrupt import Interrupt

pytestmark = pytest.mark.usefixtures("as_elsewhere")
# Every kind of randomness, and the optimizer that forgives nothing.
RUN = {"log_every": 1, "checkpoint__every": 3, "ema_decay": 0.9, "model__dropout_rate": 0.3, "data__mix__mixup": 0.2,
       "data__num_threads": 2}  # fmt: skip


EVERY = {"checkpoint__every": 10}


def killed_until_done(folder, moments, **changes):
    """Runs to the end through one kill a moment, a function that waits for it; returns how the lives ended."""
    config = config_file(folder, **(RUN | changes))
    command = ["train", "--config", config, "--workdir", folder / "run", "--num-processes", 1]
    lives = []
    for number, moment in [*moments, (None, None)]:
        process = start(command, folder / "log")
        if moment is not None:
            moment(process)
            process.send_signal(number)
        status = process.wait(PATIENCE)
        allowed = {None: {0}, signal.SIGKILL: {-9}, signal.SIGTERM: {75, -15}}[number]
        # A run that is done before its moment comes is not what is tested.
        assert status in allowed, (status, (folder / "log").read_text())
        lives.append((status, steps_in(folder / "run")))
        check_lines(folder / "run")
    return lives


def check_lines(workdir):
    """No step is logged twice; only the last line may be cut off."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    parsed = []
    for i, line in enumerate(lines):
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError:
            assert i == len(lines) - 1
    steps = [row["step"] for row in parsed if "train/loss" in row]
    assert steps == sorted(set(steps))


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["train/loss"] for row in lines if "train/loss" in row}


def same_as_uninterrupted(workdir, reference):
    for product in ("params", "ema"):
        ours, theirs = (read_params(find(w), product)[0] for w in (workdir, reference))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert losses(workdir) == losses(reference)
    assert json.loads((workdir / "summary.json").read_text())["step"] == read_metadata(find(workdir))["step"]
    left = [path.name for path in (workdir / "checkpoints").iterdir() if not path.name.isdecimal()]
    assert left == []


def after(seconds):
    return lambda process: time.sleep(seconds)


def when(condition, delay=0.0):
    """Until a condition holds, and so many seconds longer."""

    def moment(process):
        deadline = time.monotonic() + PATIENCE
        while not condition() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)

    return moment


def saving(workdir):
    """Whether a checkpoint is half written."""
    directory = workdir / "checkpoints"
    return lambda: directory.is_dir() and any("tmp" in path.name for path in directory.iterdir())


def at_step(workdir, count):
    """Whether the log has grown by so many lines since the run was started."""

    def length():
        path = workdir / "metrics.jsonl"
        return path.read_text().count("train/loss") if path.exists() else 0

    begun = []

    def reached():
        begun or begun.append(length())
        return length() >= begun[0] + count

    return reached


@pytest.mark.slow
def test_three_kills(tmp_path):
    """Before the first save, while one is written, and gently."""
    run = tmp_path / "run"
    lives = killed_until_done(
        tmp_path,
        [
            (signal.SIGKILL, when(run.exists)),
            (signal.SIGKILL, when(saving(run))),
            (signal.SIGTERM, when(at_step(run, 2))),
        ],
        steps=600,
        checkpoint__every=50,
    )
    assert lives[0][1] == [] and [status for status, _ in lives] == [-9, -9, 75, 0]
    assert lives[2][1][-1] >= 2
    tiny_run(tmp_path / "reference", **(RUN | {"checkpoint__every": 50}), steps=600)
    same_as_uninterrupted(run, tmp_path / "reference")


@pytest.mark.slow
def test_twenty_four_kills_at_random_moments(tmp_path):
    run, drawn = tmp_path / "run", random.Random(20)
    kinds = [
        lambda: after(drawn.uniform(0.2, 12.0)),  # anywhere: importing, compiling, restoring, training
        lambda: when(saving(run), drawn.uniform(0.0, 0.05)),
        lambda: when(at_step(run, drawn.randint(1, 40)), drawn.uniform(0.0, 0.05)),
    ]
    numbers = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]
    moments = [(numbers[drawn.randrange(3)], kinds[i % 3]()) for i in range(24)]
    lives = killed_until_done(tmp_path, moments, **EVERY, steps=2_500)
    assert len(lives) == 25
    tiny_run(tmp_path / "reference", **(RUN | EVERY), steps=2_500)
    same_as_uninterrupted(run, tmp_path / "reference")


KEEP = {"checkpoint__every": 2, "checkpoint__keep": 3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    tiny_run(workdir, **(RUN | KEEP))
    return workdir


@pytest.mark.long
def test_killed_between_the_last_save_and_the_summary(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "summary.json.partial").write_text('{"step": 6,')
    tiny_run(tmp_path / "run", **(RUN | KEEP))
    same_as_uninterrupted(tmp_path / "run", finished)


@pytest.mark.long
def test_killed_while_an_old_checkpoint_was_removed(finished, tmp_path):
    """A half-removed step of before is in nobody's way."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "6")
    for path in (run / "checkpoints" / "2").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "checkpoints" / "2" / "left").write_text("over")
    tiny_run(run, **(RUN | KEEP | {"checkpoint__keep": 1}))
    assert losses(run) == losses(finished) and steps_in(run) == [6]


@pytest.mark.long
def test_killed_while_a_line_or_a_config_was_written(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "6")
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-10])
    (run / "config.json.partial").write_text("{")
    (run / "metrics.jsonl.partial").write_text(text[:100])
    (run / "checkpoints" / "6.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    tiny_run(run, **(RUN | KEEP))
    same_as_uninterrupted(run, finished)


@pytest.mark.long
def test_sigterm_without_a_coordinator_stops_after_the_step(tmp_path, monkeypatch):
    calls = []

    def reached(self):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return self._requested is not None

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Interrupt, "reached", reached)
    with pytest.raises(Preempted, match="saved at step 2"):
        tiny_run(tmp_path, **RUN)
    assert steps_in(tmp_path) == [2] and signal.getsignal(signal.SIGTERM) == before
