"""benchmarks/segmentation.py: the networks from scratch, on drawn shapes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "segmentation.py"


@pytest.mark.slow
def test_the_networks_from_scratch_end_with_their_table(tmp_path):
    command = [sys.executable, SCRIPT, "--workdir", tmp_path / "runs", "--smoke", "--seeds", "1", "--minutes", "0.01"]
    run = subprocess.run([*command, "--only", "scratch"], capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((tmp_path / "runs/results.json").read_text())
    assert set(results["scratch"]) == {"efficientvit", "linear", "upernet"} == set(results["speeds"])
    table = (tmp_path / "runs/table.md").read_text()
    assert "background everywhere" in table and table.count("\n| ") == 5
