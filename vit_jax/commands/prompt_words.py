"""The part of `vit_jax visualize` that is about a learned prompt."""

import json
from pathlib import Path

from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.safetensors import write_safetensors
from vit_jax.inspection.prompts import learned_prompt

_LINES = 64  # of vectors on the screen; the file has all


def write_prompt(loaded: Loaded, output: Path) -> None:
    """Prints the tokens nearest to each vector, and writes the vectors and what they mean into `output`."""
    found = learned_prompt(loaded)
    for number, row in enumerate(found.nearest[:_LINES], 1):
        print(f"vector {number}: " + ", ".join(f"{token!r} at {distance:.3g}" for token, distance in row))
    output.mkdir(exist_ok=True)
    write_safetensors(output / "prompt.safetensors", found.arrays)
    described = json.dumps(found.to_json(loaded), indent=1, ensure_ascii=False)
    (output / "prompt.json").write_text(described + "\n", encoding="utf-8")
    print(f"Written: {output / 'prompt.safetensors'}, and what it means in prompt.json beside it")
