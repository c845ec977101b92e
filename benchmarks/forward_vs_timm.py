"""A model's pass forward on the CPU beside timm's in torch, in turns.

    python benchmarks/forward_vs_timm.py
    taskset -c 0 python benchmarks/forward_vs_timm.py --models swin:T --rounds 9 --json forward.json

For each model two processes, float32, random weights, as many threads each as there are CPUs to run on (`taskset -c 0`
leaves one). While one runs the other waits; a turn begins with an untimed pass. A round is a turn of each, in an order
that changes from round to round, and its ratio is timm's seconds divided by ours, above 1 where ours is faster. The
answer is the median over rounds; the spread is printed too, and so is the CPU time, which other programs on the machine
disturb less than the time on the wall. torch's images are in its own order of axes, or with --channels-last in ours.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

# What timm calls a model of ours.
TIMM = {
    "swin:T": "swin_tiny_patch4_window7_224",
    "swin:S": "swin_small_patch4_window7_224",
    "swin:B": "swin_base_patch4_window7_224",
    "efficientvit:B0": "efficientvit_b0",
    "efficientvit:B1": "efficientvit_b1",
    "efficientvit:B2": "efficientvit_b2",
    "efficientvit:B3": "efficientvit_b3",
    "efficientvit:L1": "efficientvit_l1",
    "vit:S/16": "vit_small_patch16_224",
}


def ours(model: str, batch_size: int) -> tuple[int, Callable[[], Any]]:
    """Parameters, and one pass forward."""
    import jax
    import numpy as np

    from vit_jax.naming import build_named

    name, _, variant = model.partition(":")
    module = build_named("model", {"name": name, "variant": variant, "num_classes": 1000}, "model")
    images = jax.device_put(_images(batch_size).transpose(0, 2, 3, 1).copy())
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    variables = {
        collection: jax.tree.map(
            lambda x, spread=0.02 if collection == "params" else 0: jax.device_put(
                (spread * rng.normal(size=x.shape) + (not spread)).astype(x.dtype)
            ),
            tree,
        )
        for collection, tree in shapes.items()
    }
    forward = jax.jit(lambda variables, x: module.apply(variables, x)["logits"]).lower(variables, images).compile()
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return count, lambda: jax.block_until_ready(forward(variables, images))


def theirs(model: str, batch_size: int, channels_last: bool) -> tuple[int, Callable[[], Any]]:
    """The same of timm's."""
    import torch

    if torch.version.cuda is None:
        # torchvision's wheel is for CUDA: beside torch for CPUs its import fails for want of two declarations.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    order = torch.channels_last if channels_last else torch.contiguous_format
    module = timm.create_model(TIMM[model]).eval().to(memory_format=order)
    images = torch.from_numpy(_images(batch_size)).to(memory_format=order)

    def once() -> Any:
        with torch.inference_mode():
            return module(images)

    return sum(p.numel() for p in module.parameters()), once


def _images(batch_size: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).normal(size=(batch_size, 3, 224, 224)).astype(np.float32)


def worker(connection: Connection, whose: str, model: str, batch_size: int, channels_last: bool) -> None:
    """Builds one model, then runs it each time that it is told to."""
    built = ours(model, batch_size) if whose == "ours" else theirs(model, batch_size, channels_last)
    parameters, once = built
    connection.send(parameters)
    while connection.recv():
        once()
        began, cpu = time.perf_counter(), time.process_time()
        once()
        connection.send({"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu})


def compare(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds of both, and what they come to."""
    context = multiprocessing.get_context("spawn")
    connections, parameters = {}, {}
    for whose in ("ours", "timm"):
        connections[whose], other = context.Pipe()
        given = (other, whose, model, arguments.batch_size, arguments.channels_last)
        context.Process(target=worker, args=given, daemon=True).start()
        parameters[whose] = connections[whose].recv()  # one compiles after the other
    assert parameters["ours"] == parameters["timm"], parameters
    rounds = []
    for i in range(arguments.rounds):
        taken = {}
        for whose in list(connections)[:: 1 if i % 2 == 0 else -1]:
            connections[whose].send(True)
            taken[whose] = connections[whose].recv()
        rounds.append({**taken, "load": os.getloadavg()[0]})
    for connection in connections.values():
        connection.send(False)
    found: dict[str, Any] = {"parameters": parameters["ours"], "rounds": rounds}
    for clock in ("seconds", "cpu_seconds"):
        ratios = [taken["timm"][clock] / taken["ours"][clock] for taken in rounds]
        found[clock] = {whose: statistics.median(taken[whose][clock] for taken in rounds) for whose in connections}
        found[clock]["ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="swin:T,efficientvit:B1", help=f"with commas, of {', '.join(TIMM)}")
    parser.add_argument("--batch-size", type=int, default=8, help="images of 224x224 (default 8)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--channels-last", action="store_true", help="torch's images lie as ours do")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    models = arguments.models.split(",")
    if unknown := [model for model in models if model not in TIMM]:
        parser.error(f"of timm's names those of {', '.join(unknown)} are not known here; choose of {', '.join(TIMM)}")
    results: dict[str, Any] = {"arguments": vars(arguments), "cpus": len(os.sched_getaffinity(0)), "models": {}}
    for model in models:
        found = results["models"][model] = compare(model, arguments)
        print(f"{model}, {found['parameters']:,} parameters, batch {arguments.batch_size}, {results['cpus']} CPUs, "
              f"load {found['rounds'][-1]['load']:.1f}")  # fmt: skip
        for clock, name in (("seconds", "time"), ("cpu_seconds", "CPU time")):
            print("  {}: ours {ours:.3f} s, timm {timm:.3f} s; timm / ours: median {median:.3f}, from {min:.3f} to "
                  "{max:.3f}".format(name, **found[clock], **found[clock]["ratio"]), flush=True)  # fmt: skip
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    from benchmarks.runs import as_command  # not in processes that this one starts

    as_command(main)
