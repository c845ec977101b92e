"""benchmarks/posterior_collapse.py: what a decoder that can do without its latents makes of Gaussians and of codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "posterior_collapse.py"


@pytest.mark.slow
def test_a_vaes_latents_collapse_and_codes_do_not(tmp_path):
    """In a process of its own, on one device."""
    made = tmp_path / "found.json"
    run = subprocess.run([sys.executable, SCRIPT, "--json", made], capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    found = json.loads(made.read_text())
    gaussians, codes = found["VAE"], found["VQ-VAE"]
    assert gaussians["divergence"] < 0.05 and abs(gaussians["other_bits"] - gaussians["bits"]) < 0.01
    assert codes["codes"] > 8 and codes["perplexity"] > 6
    assert codes["bits"] < gaussians["bits"] and codes["other_bits"] > codes["bits"] + 0.2
