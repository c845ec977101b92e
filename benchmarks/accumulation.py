"""What gradient accumulation costs: one step over the whole batch beside the same step in eight parts, in alternation.

    python benchmarks/accumulation.py
    python benchmarks/accumulation.py --rounds 9 --json accumulation.json

A small ViT (width 192, depth 6, 64 tokens), batch 64, float32, AdamW, on one CPU device: the step of training, as
`vit_jax train` compiles it. Prints the images per second of both, the ratio of their times, and the memory that the
compiler plans for the whole batch, for eight parts, and for a batch as small as one part.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

CONFIG = {
    "seed": 0,
    "steps": 1000,
    "batch_size": 64,
    "task": {"name": "classify"},
    "model": {"name": "vit", "variant": "Ti/8", "depth": 6, "pooling": "mean"},
    "data": {"image_size": [64, 64], "train": {}, "transform": {"name": "supervised", "crop": "none"}},
    "optim": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
}


def main() -> None:
    import jax

    from vit_jax.planning.rehearsal import rehearse
    from vit_jax.training.sharding import batch_sharding, put

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    part = CONFIG["batch_size"] // arguments.parts

    ways = {"whole": {}, "parts": {"microbatch": part}, "one part": {"batch_size": part}}
    steps, states, memory = {}, {}, {}
    for name, changes in ways.items():
        rehearsal = rehearse({**CONFIG, **changes}, 1000, jax.devices()[:1])
        compiled = rehearsal.program.lower().compile()
        memory[name] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        if name != "one part":
            batch = put(rehearsal.batch(), batch_sharding(rehearsal.mesh))
            steps[name] = lambda state, monitor, compiled=compiled, batch=batch: compiled(state, monitor, batch)
            states[name] = rehearsal.program.fresh_state(), rehearsal.program.fresh_monitor()
    print("temporary memory: " + ", ".join(f"{name} {size:.1f} MiB" for name, size in memory.items()))

    def turn(name: str) -> tuple[float, float]:
        began, cpu = time.perf_counter(), time.process_time()
        states[name] = jax.block_until_ready(steps[name](*states[name]))
        return time.perf_counter() - began, time.process_time() - cpu

    for name in steps:
        turn(name)
    rounds: list[dict[str, Any]] = []
    for i in range(arguments.rounds):
        taken = {name: turn(name) for name in (list(steps) if i % 2 else list(steps)[::-1])}
        rounds.append({
            **{name: CONFIG["batch_size"] / seconds for name, (seconds, _) in taken.items()},
            "ratio": taken["whole"][0] / taken["parts"][0], "cpu_ratio": taken["whole"][1] / taken["parts"][1],
            "load": os.getloadavg()[0],
        })  # fmt: skip
    summary = {"memory_mib": memory, "rounds": rounds}
    for name in ("whole", "parts", "ratio", "cpu_ratio"):
        values = [r[name] for r in rounds]
        summary[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    for name, text in (("whole", "whole, images/s"), ("parts", "parts, images/s"), ("ratio", "parts / whole"),
                       ("cpu_ratio", "the same of CPU time")):  # fmt: skip
        print("{}: median {median:.3f}, from {min:.3f} to {max:.3f}".format(text, **summary[name]))
    print(f"load of the machine: {min(r['load'] for r in rounds):.1f} to {max(r['load'] for r in rounds):.1f}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    from benchmarks.runs import as_command  # not in processes that this one starts

    as_command(main)
