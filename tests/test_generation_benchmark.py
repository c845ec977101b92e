"""benchmarks/generation.py: what the cache is for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "generation.py"


@pytest.mark.slow
def test_gpt2_small_with_a_cache_is_five_times_as_fast_at_256_tokens(tmp_path):
    """In a process of its own: the tests compile with less optimisation."""
    made = tmp_path / "generation.json"
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, SCRIPT, "--json", made], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(made.read_text())
    assert found["without, the whole window"] > 5 * found["with a cache"], run.stdout
