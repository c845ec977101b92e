"""Our train step beside the same model written plainly with Flax's layers, and beside timm's in torch, in turns.

    python benchmarks/step_vs_plain_flax.py
    taskset -c 0 python benchmarks/step_vs_plain_flax.py --rounds 9 --json step.json

Three processes, each with one step (float32, AdamW, softmax cross-entropy), take turns: while one runs, the others
wait. A round is one turn of each, in an order that changes from round to round; its ratio is seconds of the other
divided by our seconds, above 1 where ours is faster. The answer is the median over rounds; the spread is printed too,
and so is the CPU time, which other programs on the machine disturb less than the time on the wall.

Each step is what its user gets: ours runs as `vit_jax train` runs it on a CPU (compiler options and kept memory, see
vit_jax/training/cpu.py), the plain one as jax.jit compiles it, timm's as torch runs it eagerly. All have as many
threads as there are CPUs to run on; `taskset -c 0` leaves one, and then torch's threads do not wait for each other by
spinning, which counts as CPU time. Without torch, torchvision and timm (the extra "oracle") timm is left out.
"""

import argparse
import importlib.util
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

CLASSES = 1000


NAMES = ("plain", "ours", "timm")
TIMM = ("torch", "torchvision", "timm")


def jax_step(which: str, variant: str, batch_size: int, image_size: int) -> tuple[dict[str, Any], Callable[[], float]]:
    """What is known of a compiled step, and the step, which returns its loss."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from benchmarks.plain_flax_vit import PlainViT, softmax_loss
    from vit_jax.models.vit import build, parse_variant
    from vit_jax.training.cpu import keep_freed_memory, step_options

    options = None
    if which == "ours":
        keep_freed_memory()
        options = step_options()
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
    compiled = jax.jit(step, donate_argnums=(0, 1), compiler_options=options).lower(params, slots).compile()
    about = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "compile_seconds": time.perf_counter() - began,
        "scratch_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "versions": {"jax": jax.__version__, "options": options},
    }

    def once() -> float:
        nonlocal params, slots
        params, slots, loss = compiled(params, slots)
        jax.block_until_ready(params)
        return float(loss)

    return about, once


def torch_step(variant: str, batch_size: int, image_size: int) -> tuple[dict[str, Any], Callable[[], float]]:
    """The same of timm's model of this variant."""
    import numpy as np
    import torch

    if torch.version.cuda is None:
        # torchvision's wheel is for CUDA: beside torch for CPUs its import fails for want of two declarations.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm
    from timm.models.vision_transformer import VisionTransformer

    from vit_jax.models.vit import parse_variant

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    size, patch_size = parse_variant(variant)
    model = VisionTransformer(
        img_size=image_size, patch_size=patch_size, num_classes=CLASSES, embed_dim=size.width, depth=size.depth,
        num_heads=size.num_heads, mlp_ratio=size.mlp_dim / size.width,
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(batch_size, 3, image_size, image_size)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, CLASSES, batch_size))

    def once() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    about = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }
    return about, once


def worker(connection: Connection, which: str, *sizes: Any) -> None:
    """Builds one step, then runs as many as it is told to, until it is told 0."""
    about, once = torch_step(*sizes) if which == "timm" else jax_step(which, *sizes)
    connection.send(about)
    loss = float("nan")
    while steps := connection.recv():
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            loss = once()
        connection.send(((time.perf_counter() - began) / steps, (time.process_time() - cpu) / steps, loss))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps a turn")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()

    missing = [name for name in TIMM if importlib.util.find_spec(name) is None]
    names = [name for name in NAMES if name != "timm" or not missing]
    if missing:
        print(f"timm is not timed: {', '.join(missing)} not installed (pip install 'vit_jax[oracle]')")
    context = multiprocessing.get_context("spawn")
    workers, abouts = {}, {}
    for which in names:
        ours, theirs = context.Pipe()
        sizes = (arguments.variant, arguments.batch_size, arguments.image_size)
        process = context.Process(target=worker, args=(theirs, which, *sizes), daemon=True)
        process.start()
        workers[which] = ours
        about = abouts[which] = ours.recv()  # one compiles after the other
        compiled = "compiled in {compile_seconds:.1f} s, {scratch_mib:.0f} MiB of scratch memory, "
        print(f"{which:5}  {about['parameters']:,} parameters, " + (compiled.format(**about) if which != "timm" else "")
              + ", ".join(f"{name} {value}" for name, value in about["versions"].items()), flush=True)  # fmt: skip

    def turn(which: str, steps: int) -> tuple[float, float, float]:
        workers[which].send(steps)
        return workers[which].recv()

    for which in workers:
        turn(which, 1)
    others = [name for name in names if name != "ours"]
    rounds: list[dict[str, Any]] = []
    for i in range(arguments.rounds):
        taken = {which: turn(which, arguments.steps) for which in (names if i % 2 == 0 else names[::-1])}
        figures = {"load": os.getloadavg()[0]}
        for name in names:
            figures[name], figures[f"{name}_cpu"] = taken[name][:2]
        for name in others:
            figures[f"{name}_ratio"] = figures[name] / figures["ours"]
            figures[f"{name}_cpu_ratio"] = figures[f"{name}_cpu"] / figures["ours_cpu"]
        rounds.append(figures)
        print(f"round {i + 1}  " + "  ".join(
            f"{name} {figures[name]:.2f} s ({figures[name + '_cpu']:.2f} of CPU time)" for name in names
        ) + f"  load {figures['load']:.1f}", flush=True)  # fmt: skip
    for connection in workers.values():
        connection.send(0)

    summary = {"arguments": vars(arguments), "about": abouts, "rounds": rounds}
    for name in rounds[0]:
        values = [r[name] for r in rounds]
        summary[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    for name in others:
        for key, text in ((f"{name}_ratio", "time"), (f"{name}_cpu_ratio", "CPU time")):
            print("{} / ours, {}: median {median:.3f}, from {min:.3f} to {max:.3f}".format(name, text, **summary[key]))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    from benchmarks.runs import as_command  # not in processes that this one starts

    as_command(main)
