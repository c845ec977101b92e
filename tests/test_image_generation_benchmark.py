"""benchmarks/image_generation.py: from nothing to tables and sheets, and again from what is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.image_sheets import kmeans

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "image_generation.py"


@pytest.mark.slow
def test_a_tokenizer_and_a_generator(tmp_path):
    command = [sys.executable, SCRIPT, "--workdir", tmp_path, "--seeds", "1", "--smoke", "--only", "vq", "raster"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stderr[-2000:]
    table = (tmp_path / "table.md").read_text()
    assert "| VQ, 8x8 |" in table and "| raster, guided 1.5 |" in table and "| real images |" in table
    assert (tmp_path / "codes.png").stat().st_size and (tmp_path / "orders.png").stat().st_size
    first = json.loads((tmp_path / "results.json").read_text())
    again = subprocess.run([*command, "--no-sheets"], env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "steps 0 to" not in again.stderr + again.stdout
    assert json.loads((tmp_path / "results.json").read_text()) == first


def test_kmeans_finds_what_is_there():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [5, 0], [0, 5]])
    points = centres[rng.integers(0, 3, 90)] + 0.1 * rng.normal(size=(90, 2))
    found = kmeans(points, 3)
    apart = np.linalg.norm(found[:, None] - centres, axis=-1)
    assert sorted(apart.argmin(axis=1)) == [0, 1, 2] and apart.min(axis=1).max() < 0.1
    assert len(kmeans(points[:2], 4)) == 4
