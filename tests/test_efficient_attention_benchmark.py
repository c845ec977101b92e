"""benchmarks/efficient_attention.py: all of it, on digits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "efficient_attention.py"


@pytest.mark.slow
def test_both_experiments_end_with_their_tables(tmp_path):
    command = [sys.executable, SCRIPT, "--workdir", tmp_path / "runs", "--smoke", "--seeds", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((tmp_path / "runs/results.json").read_text())
    assert set(results["mixers"]) == {"softmax", "window", "shifted", "linear", "multiscale"} == set(results["speeds"])
    assert set(results["curves"][0]) == {
        f"{run} {scores}" for run in ("dense", "adapt") for scores in ("norm", "random")
    }
    assert [len(seconds) for seconds in results["pairs"]] == [9, 9, 8]
    assert results["found"][0]["latency"] <= 0.99
    assert (tmp_path / "runs/kept.png").stat().st_size > 10_000
    assert (tmp_path / "runs/table.md").read_text().count("| ---") > 10
    # Started again, it makes nothing anew.
    before = {path: path.stat().st_mtime for path in (tmp_path / "runs").rglob("summary.json")}
    assert subprocess.run(command, capture_output=True, timeout=600).returncode == 0
    assert before == {path: path.stat().st_mtime for path in (tmp_path / "runs").rglob("summary.json")}
