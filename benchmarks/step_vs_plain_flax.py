"""Our train step beside the same model written plainly with Flax's layers, in alternation.

    python benchmarks/step_vs_plain_flax.py
    python benchmarks/step_vs_plain_flax.py --batch-size 8 --rounds 9 --json step.json

Two processes, each with one compiled step (float32, AdamW, softmax cross-entropy), take turns: while one runs, the
other waits. A round is one turn of each, in an order that changes from round to round; its ratio is plain seconds
divided by our seconds, above 1 where ours is faster. The answer is the median over rounds; the spread is printed too,
and so is the CPU time, which other programs on the machine disturb less than the time on the wall.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

CLASSES = 1000


def worker(connection: Connection, which: str, variant: str, batch_size: int, image_size: int) -> None:
    """Builds one step, then runs as many as it is told to, until it is told 0."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from benchmarks.plain_flax_vit import PlainViT, softmax_loss
    from vit_jax.models.vit import build, parse_variant

    if which == "ours":
        model = build(variant, num_classes=CLASSES)
        logits = lambda params, images: model.apply({"params": params}, images, train=True)["logits"]  # noqa: E731
    else:
        size, patch_size = parse_variant(variant)
        model = PlainViT(CLASSES, patch_size, size.width, size.depth, size.mlp_dim, size.num_heads)
        logits = lambda params, images: model.apply({"params": params}, images)  # noqa: E731
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(batch_size, image_size, image_size, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, batch_size))
    tx = optax.adamw(1e-3, weight_decay=0.1)

    def step(params: Any, slots: Any) -> Any:
        loss, gradients = jax.value_and_grad(lambda params: softmax_loss(logits(params, images), labels))(params)
        updates, slots = tx.update(gradients, slots, params)
        return optax.apply_updates(params, updates), slots, loss

    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    slots = tx.init(params)
    began = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, slots).compile()
    connection.send({
        "compile_seconds": time.perf_counter() - began,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "scratch_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
    })  # fmt: skip
    while steps := connection.recv():
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            params, slots, loss = compiled(params, slots)
            jax.block_until_ready(params)
        connection.send(((time.perf_counter() - began) / steps, (time.process_time() - cpu) / steps, float(loss)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps a turn")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    workers = {}
    for which in ("plain", "ours"):
        ours, theirs = context.Pipe()
        sizes = (arguments.variant, arguments.batch_size, arguments.image_size)
        process = context.Process(target=worker, args=(theirs, which, *sizes), daemon=True)
        process.start()
        workers[which] = ours
        about = ours.recv()  # one compiles after the other
        print(f"{which:5}  {about['parameters']:,} parameters, compiled in {about['compile_seconds']:.1f} s, "
              f"{about['scratch_mib']:.0f} MiB of scratch memory")  # fmt: skip

    def turn(which: str, steps: int) -> tuple[float, float, float]:
        workers[which].send(steps)
        return workers[which].recv()

    for which in workers:
        turn(which, 1)
    rounds: list[dict[str, Any]] = []
    for i in range(arguments.rounds):
        order = ["plain", "ours"] if i % 2 == 0 else ["ours", "plain"]
        taken = {which: turn(which, arguments.steps) for which in order}
        rounds.append({
            "plain": taken["plain"][0], "ours": taken["ours"][0], "ratio": taken["plain"][0] / taken["ours"][0],
            "cpu_ratio": taken["plain"][1] / taken["ours"][1], "load": os.getloadavg()[0],
        })  # fmt: skip
        print("round {}  plain {plain:.3f} s  ours {ours:.3f} s  ratio {ratio:.3f}  of CPU time {cpu_ratio:.3f}  "
              "load {load:.1f}".format(i + 1, **rounds[-1]), flush=True)  # fmt: skip
    for connection in workers.values():
        connection.send(0)

    summary = {"arguments": vars(arguments), "rounds": rounds}
    for name in ("plain", "ours", "ratio", "cpu_ratio"):
        values = [r[name] for r in rounds]
        summary[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    for name, text in (("ratio", "plain / ours"), ("cpu_ratio", "the same of CPU time")):
        print("{}: median {median:.3f}, from {min:.3f} to {max:.3f}".format(text, **summary[name]))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
