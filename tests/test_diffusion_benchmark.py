"""benchmarks/diffusion.py: from nothing to tables and sheets, and again from what is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.diffusion import ways
from benchmarks.diffusion_digits import digits_of
from benchmarks.midpoints import pairs

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "diffusion.py"


@pytest.mark.slow
def test_digits_and_latents(tmp_path):
    command = [sys.executable, SCRIPT, "--workdir", tmp_path, "--seeds", "1", "--smoke"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr[-2000:]
    table = (tmp_path / "table.md").read_text()
    for row in ("linear, DDIM, 10 steps", "held-out digits", "latents, 5 steps, guided 1.5", "latents, samples"):
        assert f"| {row} |" in table
    for sheet in ("quality", "linear_film_strip", "latents_between", "latents_arithmetic", "latents_schedule"):
        assert (tmp_path / f"{sheet}.png").stat().st_size
    first = json.loads((tmp_path / "results.json").read_text())
    again = subprocess.run([*command, "--no-sheets"], env=environment, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0 and "steps 0 to" not in again.stderr + again.stdout
    assert json.loads((tmp_path / "results.json").read_text()) == first


def test_real_digits_have_their_neighbours():
    found = digits_of()
    assert found["held-out digits"]["accuracy"] > 0.97 and found["noise"]["accuracy"] < 0.3
    assert 10 * found["held-out digits"]["frechet"] < found["noise"]["frechet"]


def test_pairs_are_of_one_class():
    labels = np.repeat([2, 0, 1], 4)
    first, second = pairs(labels, 30)
    np.testing.assert_array_equal(labels[first], labels[second])
    assert (first != second).all() and np.bincount(first).min() == 2


def test_lines_are_of_rows_that_differ_in_steps():
    assert ways()["digits"]["cosine"][10] == "cosine, DDIM, 10 steps"
    assert list(ways()["garments"]["latents, guided 1.5"]) == [2, 5, 10, 25, 50]
