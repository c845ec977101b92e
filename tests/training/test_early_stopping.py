"""A run ends where its evaluations have not become better for long enough, and an interrupted one ends there too."""

import json
from types import SimpleNamespace

import pytest

from tests.tiny import tiny_run
from vit_jax import UserError
from vit_jax.checkpoints.policy import Kept, Policy
from vit_jax.checkpoints.steps import steps_in
from vit_jax.training import open_run
from vit_jax.training.evaluation import Evaluation
from vit_jax.training.patience import Patience


def after(values, **policy):
    """The evaluation, counted from 1, at which a run with these values would end; None for never."""
    patience = Patience(Policy(best="val/x", **policy))
    for step, value in enumerate(values, 1):
        patience.saw(step, {} if value is None else {"val/x": value, "val/y": 0.0})
        if patience.ends():
            return step
    return None


def test_what_is_counted():
    up_and_down = [0.5, 0.6, 0.55, 0.6, 0.7, 0.69, 0.68, 0.71]
    assert after(up_and_down, stop_after=2) == 4, "as good as the best is not better"
    assert after(up_and_down, stop_after=3) is None and after(up_and_down) is None
    assert after([0.5, 0.51, 0.52, 0.53], stop_after=2, min_delta=0.015) is None, "it adds up"
    assert after([0.5, 0.51, 0.5, 0.51], stop_after=2, min_delta=0.015) == 3
    assert after([1.0, 0.9, 0.95, 0.91], stop_after=2, best_mode="min") == 4
    assert after([0.5, None, None, 0.4, None, 0.4], stop_after=2) == 6, "a failed evaluation says nothing"
    assert after([float("nan"), 0.5, float("nan"), float("nan")], stop_after=2) == 4
    patience = Patience(Policy(best="val/x", stop_after=1))
    patience.saw(3, {"val/x": float("nan")})
    assert patience.said(3) == "Stopped early at step 3: val/x has never been a number in 1 evaluations"


@pytest.mark.parametrize("mode, best", [("max", 3), ("min", 2)])
def test_what_is_no_number_is_not_the_best_checkpoint(mode, best):
    measured = {1: float("nan"), 2: 3.0, 3: 5.0, 5: float("nan")}
    kept = Kept(Policy(every=1, keep=1, best="val/x", best_mode=mode), measured)
    saved = [SimpleNamespace(step=step) for step in (1, 2, 3, 4, 5, 6)]
    assert [s.step for s, stays in zip(saved, kept.should_preserve(saved, context=None), strict=True) if stays] == [
        best, 6,
    ]  # fmt: skip


# With a learning rate of 0 nothing becomes better after the first evaluation. The third is not at a save.
STALLED = {
    "optim__learning_rate": 0.0,
    "steps": 40,
    "eval_every": 1,
    "checkpoint__every": 2,
    "checkpoint__best": "val/accuracy",
    "checkpoint__stop_after": 2,
    "evals__end__name": "classification",
    "evals__end__every": 100,
}


def rows(workdir):
    timed = ("images_per_second", "images_per_second_per_chip", "data_wait", "productive")
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in timed} for row in found]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("early") / "run"
    return workdir, tiny_run(workdir, **STALLED)


@pytest.mark.long
def test_a_run_that_does_not_get_better_is_finished(stopped, capsys, monkeypatch):
    workdir, summary = stopped
    assert summary["step"] == 3 and steps_in(workdir)[-1] == 3
    assert summary["end/accuracy"] == summary["val/accuracy"], "what is measured at the end alone is measured"
    assert json.loads((workdir / "summary.json").read_text()) == summary
    lines = rows(workdir)
    assert [row["step"] for row in lines if "val/accuracy" in row] == [1, 2, 3]
    assert [row["step"] for row in lines if "end/accuracy" in row] == [3]
    # The same command again knows from the log that it is done, and compiles no step.
    monkeypatch.setattr(open_run, "compile_aloud", None)
    again = tiny_run(workdir, **STALLED)
    assert {**again, "seconds": 0} == {**summary, "seconds": 0} and rows(workdir) == lines
    assert "Stopped early at step 3: val/accuracy has not improved on" in capsys.readouterr().err


@pytest.mark.long
def test_more_patience_goes_on_from_what_was_counted(stopped, tmp_path, capsys):
    import shutil

    shutil.copytree(stopped[0], tmp_path / "run")
    assert tiny_run(tmp_path / "run", **{**STALLED, "checkpoint__stop_after": 4})["step"] == 5
    assert ", of step 1, in 4 evaluations" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("killed", [2, 3])
def test_a_run_that_was_killed_ends_where_it_would_have_ended(stopped, tmp_path, monkeypatch, killed):
    """Before its second evaluation was written, which it owes when it goes on, or before the third, which is not saved."""
    measure, asked = Evaluation.run, []

    def run(self, variables, names=None, *rest):
        asked.append(1)
        return 1 / 0 if len(asked) == killed else measure(self, variables, names, *rest)

    monkeypatch.setattr(Evaluation, "run", run)
    with pytest.raises(ZeroDivisionError):
        tiny_run(tmp_path, **STALLED)
    assert steps_in(tmp_path) == [2]
    summary = tiny_run(tmp_path, **STALLED)
    assert {**summary, "seconds": 0} == {**stopped[1], "seconds": 0}
    assert [r for r in rows(tmp_path) if "train/loss" not in r] == [
        r for r in rows(stopped[0]) if "train/loss" not in r
    ]


@pytest.mark.long
def test_a_run_ends_at_its_start_where_the_owed_evaluation_says_so(tmp_path, monkeypatch):
    settings = {**STALLED, "checkpoint__stop_after": 1}
    with monkeypatch.context() as patch:
        measure, asked = Evaluation.run, []

        def run(self, *arguments):
            asked.append(1)
            return 1 / 0 if len(asked) == 2 else measure(self, *arguments)

        patch.setattr(Evaluation, "run", run)
        with pytest.raises(ZeroDivisionError):
            tiny_run(tmp_path, **settings)
    summary = tiny_run(tmp_path, **settings)
    assert summary["step"] == 2 and "end/accuracy" in summary
    assert [sorted(k for k in r if k.endswith("/accuracy")) for r in rows(tmp_path)[-2:]] == [
        ["val/accuracy"], ["end/accuracy"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint__best": "none"}, "stop_after waits for no metric"),
        (
            {"checkpoint__best": "none", "checkpoint__stop_after": "none", "checkpoint__min_delta": 0.1},
            "min_delta waits",
        ),
        ({"checkpoint__stop_after": 0}, "checkpoint.stop_after is 0"),
        ({"checkpoint__min_delta": -0.1}, "checkpoint.min_delta is -0.1"),
        ({"recalibrate": 16}, "config.recalibrate changes what the last step has made"),
    ],
)
def test_what_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        tiny_run(tmp_path / "run", **{**STALLED, **changes})
    assert not (tmp_path / "run").exists()
