"""What the loop promises about logs, saves, bad numbers and workdirs."""

import dataclasses
import json
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.tiny import tiny_experiment, tiny_run
from vit_jax import UserError
from vit_jax.checkpoints.steps import find, steps_in
from vit_jax.checkpoints.store import read_params
from vit_jax.tasks import Task
from vit_jax.training import loop
from vit_jax.training.loop import train


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_what_is_written(tmp_path):
    summary = tiny_run(tmp_path, eval_every=3)
    lines = rows(tmp_path)
    assert [r["step"] for r in lines if "train/loss" in r] == [2, 4, 6]
    assert [r["step"] for r in lines if "val/accuracy" in r] == [3, 6]
    assert all(isinstance(v, (int, float)) for r in lines for v in r.values())
    assert {"train/learning_rate", "train/gradient_norm", "images_per_second", "data_wait"} <= set(lines[-2])
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["step"] == 6 and summary["val/examples"] == 50
    assert list((tmp_path / "tensorboard").iterdir())
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 6


def test_learning_rate_of_the_first_step_is_zero(tmp_path):
    tiny_run(tmp_path, log_every=1, steps=3)
    assert [r["train/learning_rate"] for r in rows(tmp_path) if "train/loss" in r] == pytest.approx([0, 5e-3, 1e-2])


def test_a_damaged_log_leaves_no_workdir_taken(monkeypatch, tmp_path):
    """Not even while the error is kept, as a notebook keeps the last one."""
    (tmp_path / "metrics.jsonl").write_text("x\n{}\n")
    closed = []
    run = SimpleNamespace(start=0, state=None, monitor=None, close=lambda: closed.append(True))
    monkeypatch.setattr(loop, "open_run", lambda *_: run)
    with pytest.raises(UserError, match="Line 1 of .* is damaged"):
        train(tiny_experiment(), tmp_path)
    assert closed == [True]


@pytest.mark.long
def test_newest_and_best_are_kept(tmp_path):
    policy = {"every": 1, "keep": 2, "best": "val/loss", "best_mode": "min"}
    policy = {f"checkpoint__{key}": value for key, value in policy.items()}
    tiny_run(tmp_path, steps=8, eval_every=1, optim__learning_rate=3e-2, **policy)
    losses = {r["step"]: r["val/loss"] for r in rows(tmp_path) if "val/loss" in r}
    assert set(steps_in(tmp_path)) == {7, 8, min(losses, key=losses.get)}


@pytest.mark.long
def test_best_needs_an_evaluation_at_every_save(tmp_path):
    with pytest.raises(UserError, match="needs an evaluation at every save"):
        tiny_run(tmp_path, checkpoint__best="val/loss", checkpoint__every=2)
    with pytest.raises(UserError, match="'val/los', which no evaluator measured"):
        tiny_run(tmp_path, checkpoint__best="val/los", checkpoint__every=2, eval_every=2)


@pytest.mark.long
def test_a_non_finite_step_is_named_and_the_last_good_checkpoint_kept(tmp_path):
    experiment = tiny_experiment(steps=8, checkpoint__every=2, log_every=8)
    task = experiment.task

    class Poisoned(Task):
        init, outputs, model_spec = task.init, task.outputs, task.model_spec

        def loss(self, variables, batch, rng, step):
            value, aux = task.loss(variables, batch, rng, step)
            return jax.numpy.where(step == 4, jax.numpy.nan, value), aux

    with pytest.raises(UserError, match="not finite since step 5. The checkpoint of step 4 is kept"):
        train(dataclasses.replace(experiment, task=Poisoned()), tmp_path, jax.devices()[:1])
    assert steps_in(tmp_path) == [2, 4]


@pytest.mark.long
def test_exploding_updates_are_caught_before_the_loss_shows_them(tmp_path):
    with pytest.raises(UserError, match="not finite since step"):
        tiny_run(tmp_path, optim__name="sgd", optim__learning_rate=1e38, steps=3)
    assert steps_in(tmp_path) == []


@pytest.mark.long
def test_a_workdir_of_another_config(tmp_path):
    tiny_run(tmp_path, stop_at=2)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match="another config.model.pooling, config.optim.learning_rate"):
        tiny_run(tmp_path, model__pooling="map", optim__learning_rate=0.5)
    assert (tmp_path / "config.json").read_text() == before and steps_in(tmp_path) == [2]
    assert tiny_run(tmp_path, stop_at=4, log_every=1, checkpoint__every=3)["step"] == 4
    with pytest.raises(UserError, match="is at step 4, past the 3"):
        tiny_run(tmp_path, stop_at=3)


@pytest.mark.long
def test_a_finished_run_is_only_evaluated_again(tmp_path, monkeypatch):
    first = tiny_run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    monkeypatch.chdir(tmp_path.parent)
    again = tiny_run(Path(tmp_path.name))  # as the command line is given it
    read_params(Path(tmp_path.name) / "checkpoints" / "6")
    assert again["val/accuracy"] == first["val/accuracy"]
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("devices", "changes", "message"),
    [
        (8, {"batch_size": 12}, "12 examples does not divide over 8 devices"),
        (1, {"microbatch": 5}, "does not split into microbatches of 5"),
        (8, {"microbatch": 4}, "be a multiple of 8"),
        (8, {"mesh__data": 3}, "does not multiply out to 8 devices"),
        (8, {"mesh__dta": 8}, "Did you mean 'data'"),
        (8, {"mesh__tensor": 4}, "not divide over tensor=4"),
        (1, {"model__variant": "mu/5"}, "8x8 .* 5"),
        (1, {"model__variant": "mu/16"}, "8x8 .* 16"),
        (1, {"checkpoint__evry": 5}, "Did you mean 'every'"),
        (1, {"optim__frozen": "['heead/.*']"}, "matches no parameter"),
        (1, {"optim__schedule__warmup_steps": 6}, "not shorter than the run of 6"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path, devices, changes, message):
    with pytest.raises(UserError, match=message):
        tiny_run(tmp_path / "new", devices, **changes)
    assert not (tmp_path / "new").exists()


@pytest.mark.long
def test_ctrl_c_saves(tmp_path):
    experiment = tiny_experiment(steps=50)
    pipeline = experiment.pipeline
    fetched = []

    class Interrupting:
        batch = pipeline.batch

        def iterate(self, *where):
            batches = pipeline.iterate(*where)
            try:
                for batch in batches:
                    fetched.append(1)
                    if len(fetched) == 5:
                        signal.raise_signal(signal.SIGINT)
                    yield batch
            finally:
                batches.close()

    before = signal.getsignal(signal.SIGINT)  # a process in the background may ignore it
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(experiment, pipeline=Interrupting()), tmp_path, jax.devices()[:1])
    [step] = steps_in(tmp_path)
    assert 3 <= step <= 5
    assert signal.getsignal(signal.SIGINT) is before
    assert tiny_run(tmp_path, steps=50, stop_at=step + 1)["step"] == step + 1


@pytest.mark.long
def test_frozen_parameters_stay(tmp_path):
    tiny_run(tmp_path, optim__frozen="['encoder/.*']", steps=4, stop_at=1, ema_decay=0.5)
    start, _ = read_params(find(tmp_path))
    tiny_run(tmp_path, optim__frozen="['encoder/.*']", steps=4, ema_decay=0.5)
    end, _ = read_params(find(tmp_path), "params")
    jax.tree.map(np.testing.assert_array_equal, start["encoder"], end["encoder"])
    assert not np.array_equal(start["head"]["bias"], end["head"]["bias"])
