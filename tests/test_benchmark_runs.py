"""benchmarks/runs.py: what scripts of experiments share."""

import json
from pathlib import Path

import pytest

from benchmarks import runs
from benchmarks.runs import as_command, fit, once, spread, spread_of
from vit_jax import UserError
from vit_jax.training.config import load_config, override


def stopped_by(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "main, status, line",
    [
        (lambda: None, 0, ""),
        (stopped_by(KeyboardInterrupt()), 130, "interrupted\n"),
        (stopped_by(UserError("There is no file x", "Name another")), 2, "There is no file x. Name another.\n"),
    ],
)
def test_what_stops_a_script_is_a_line(main, status, line, capsys):
    with pytest.raises(SystemExit) as ended:
        as_command(main)
    assert ended.value.code == status
    said = capsys.readouterr().err
    assert said.endswith(line) and said.count("\n") == line.count("\n")
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        as_command(stopped_by(ZeroDivisionError()))


SCRIPTS = [file for file in Path(runs.__file__).parent.glob("*.py") if "\ndef main(" in file.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.stem)
def test_all_scripts_end_so(script):
    assert len(SCRIPTS) > 20
    assert script.read_text().endswith("    as_command(main)\n")


def test_what_is_known_is_not_made_again(tmp_path):
    file, calls = tmp_path / "x.json", []
    for _ in range(2):
        assert once(file, lambda: calls.append(1) or {"ä": 1.5}) == {"ä": 1.5}
    assert len(calls) == 1 and "ä" in file.read_text(encoding="utf-8")


def test_a_run_is_trained_that_is_not_finished(tmp_path, monkeypatch):
    """Also one of which an evaluator failed; one of another config is not taken for it."""
    trained = []
    monkeypatch.setattr(runs, "train", lambda experiment, run: trained.append(run.name))
    monkeypatch.setattr(runs, "build_experiment", lambda values: values)
    config = override(load_config("digits:smoke"), {})
    for name, change, summary in (
        ("whole", {}, {}), ("failed", {}, {"failed": ["val"]}), ("other", {"seed": 7}, {}),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config | change))
        (tmp_path / name / "summary.json").write_text(json.dumps({"val/accuracy": 0.5} | summary))
        assert fit(tmp_path / name, "digits:smoke")["val/accuracy"] == 0.5
    assert trained == ["failed", "other"]


def test_means_and_deviations():
    assert spread([0.5, 0.7]) == "60.0 ± 10.0" and spread([1.25, 1.75], percent=False) == "1.50 ± 0.25"
    assert spread([0.5]) == "50.0"
    runs = [{"a": 0.5}, {"a": 0.7, "b": 3.0}]
    assert [spread_of(runs, "a", 1, 100), spread_of(runs, "b", 0), spread_of(runs, "c", 2)] == ["60.0 ± 10.0", "3", ""]
