"""How much faster GPT-2 small generates with a cache than without one.

    python benchmarks/generation.py

One text of 16 tokens goes on to 256, greedy, float32, random parameters. Without a cache every token takes a run over
the text so far: of one compiled program over the whole window of 256, or of a program for every length, which costs the
mean over lengths. Each figure is the faster of two runs, without compiling.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.runs import as_command
from vit_jax.commands.table import table
from vit_jax.data.tokenizers.bytes import Bytes
from vit_jax.models.gpt import build
from vit_jax.tasks.language_model import LanguageModel, TextSampling

PROMPT, WINDOW = 16, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the milliseconds a token to FILE")
    arguments = parser.parse_args()
    found = milliseconds()
    cached = found["with a cache"]
    rows = [[name, f"{value:.0f}", f"{value / cached:.1f}"] for name, value in found.items()]
    print(table(["GPT-2 small, 256 tokens", "ms a token", "times as long"], rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def milliseconds() -> dict[str, float]:
    """Of a token, by how it is made."""
    model = build(variant="gpt2-small", vocab_size=50257)
    task, rng = LanguageModel(model, {}, Bytes()), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 8), np.int32)))["params"]
    draw = functools.partial(jnp.multiply, 0.02)
    variables = {"params": jax.tree.map(lambda s: draw(rng.standard_normal(s.shape, np.float32)), shapes)}

    conditions = {"ids": jnp.full((1, PROMPT), 5), "length": jnp.full((1,), PROMPT)}
    tokens = WINDOW - PROMPT
    # No token ends the text: that of `Bytes` is as likely as any other.
    sample = jax.jit(functools.partial(task.sample, settings=TextSampling(tokens=tokens, temperature=0.0)))
    cached = seconds(sample, variables, conditions, jax.random.split(jax.random.key(0), 1)) / tokens

    @jax.jit
    def last_logits(variables: Any, ids: jax.Array) -> jax.Array:
        tokens = model.apply(variables, ids, method=lambda gpt, ids: gpt.text(ids)[0])
        return model.apply(variables, tokens[:, -1], method="logits")

    lengths = (PROMPT, 96, 176, WINDOW)
    whole = [seconds(last_logits, variables, jnp.ones((1, n), jnp.int32)) for n in lengths]
    growing = np.trapezoid(whole, lengths) / (WINDOW - PROMPT)  # time is about linear between them
    named = {"with a cache": cached, "without, the whole window": whole[-1], "without, growing lengths": growing}
    return {name: 1e3 * float(value) for name, value in named.items()}


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """The faster of two runs."""
    compiled = function.lower(*arguments).compile()
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        taken.append(time.perf_counter() - began)
    return min(taken)


if __name__ == "__main__":
    as_command(main)
