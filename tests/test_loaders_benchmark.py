"""benchmarks/loaders.py: every loader that can be had reads, and what cannot is named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "loaders.py"


@pytest.mark.slow
def test_loaders_take_turns(tmp_path):
    made = tmp_path / "loaders.json"
    options = ["--cores", "1", "--images", "32", "--rounds", "1", "--json", str(made)]
    run = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    results = json.loads(made.read_text())["1"]
    ours = {"bare loop", "vit_jax, folder", "vit_jax, ArrayRecord", "vit_jax, bilinear as tf.data"}
    assert ours <= results.keys()
    for name in {"tf.data", "torch DataLoader"} - results.keys():
        assert f"{name} is left out: " in run.stdout
    for name, found in results.items():
        assert name in run.stdout
        assert all(len(found[kind]) == 1 and 10 < found[kind][0] < 10_000 for kind in ("cpu", "clock")), (name, found)
