"""Whether MoCo v3 trains more stably with a frozen patch projection, and in which layer spikes of the gradient start.

Section 4 of the paper (arXiv:2104.02057) sees dips in the accuracy of ViTs with large batches and learning rates, and
behind each a spike of the gradient that comes first in the patch projection and some tens of steps later in the last
layers; with the random projection frozen there are fewer. Here a small ViT learns on Fashion-MNIST, or on
scikit-learn's digits, which need no package, at learning rates that rise until it does not learn any more.

    python benchmarks/moco_stability.py --workdir runs/moco_stability

A spike begins in the step in which the norm of a layer's gradient exceeds five times its median over the last 50
steps (fewer in the first 50, none in the first 20), and ends when it is below again. Every cell (learning rate,
projection, seed) is a run of its own; cells that are done are skipped, so the command can be stopped and started again
at will. It ends with a table, which it also writes to `table.md`, and a figure of the norms, `norms-RATE.png`, for each
learning rate.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import as_command
from vit_jax.commands.table import table
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.metrics import read_metrics

DEPTH = 4
START, WINDOW, FACTOR, WITHIN = 20, 50, 5.0, 40
LAYERS = {"patch projection": "embedding", "first block": "block_00", "last block": f"block_{DEPTH - 1:02d}"}
PROJECTIONS = ("frozen", "learned")


def cell(data: str, rate: float, projection: str, seed: int, steps: int) -> dict[str, Any]:
    """The config of one run."""
    digits = data == "digits"
    source = {"name": "digits"} if digits else {"name": "idx"}
    few = {} if digits else {"examples": 5000}
    view = {"area": (0.3, 1.0), "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
    optim = {
        "name": "adamw", "learning_rate": rate, "weight_decay": 0.1, "schedule": {"name": "cosine", "warmup_steps": 40},
    }  # fmt: skip
    if projection == "frozen":
        optim["frozen"] = ["encoder/embedding/.*"]
    return {
        "seed": seed,
        "steps": steps,
        "batch_size": 64,
        "task": {"name": "moco_v3", "hidden": 256, "out": 64},
        "model": {
            "name": "vit", "variant": "mu/2" if digits else "mu/7", "width": 64, "depth": DEPTH, "mlp_dim": 256,
            "num_heads": 4, "pooling": "token", "posemb": "sincos2d_moco", "gelu": "exact",
        },
        "data": {
            "image_size": [8, 8] if digits else [28, 28],
            "train": {**source, "split": "train"},
            "eval": {**source, "split": "test", **({} if digits else {"examples": 2000})},
            "transform": {
                "name": "two_views", **view, "first": {"blur": 1.0}, "second": {"blur": 0.1, "solarize": 0.2},
            },
            "preprocess": {"mean": [73.0] * 3, "std": [90.0] * 3},
            "eval_batch_size": 250,
        },
        "optim": optim,
        "ema_decay": {"name": "cosine", "start": 0.99, "end": 1.0},
        "evals": {"knn": {"name": "knn", "train": {**source, "split": "train", **few}, "k": 20}},
        "log_every": 1,
        "gradient_norms": True,
        "checkpoint": {"every": None, "keep": 1},
    }  # fmt: skip


def ratios(norms: Sequence[float]) -> list[float]:
    """Each step's norm as a multiple of the median before it; 0 in the first steps."""
    return [0.0 if i < START else x / statistics.median(norms[max(0, i - WINDOW) : i]) for i, x in enumerate(norms)]


def spikes(norms: Sequence[float]) -> list[int]:
    """The steps in which a spike begins."""
    high = [ratio > FACTOR for ratio in ratios(norms)]
    return [i for i in range(1, len(high)) if high[i] and not high[i - 1]]


def preceded(late: Sequence[int], early: Sequence[int]) -> int:
    """How many of `late` have one of `early` at most `WITHIN` steps before them, not in the same step."""
    return sum(any(0 < b - a <= WITHIN for a in early) for b in late)


def norms_of(workdir: Path) -> dict[str, list[float]]:
    """The norm of each layer's gradient by step; a frozen layer has none."""
    rows = [row for row in read_metrics(workdir) if "train/loss" in row]
    keys = {layer: f"train/gradient_norm/encoder/{name}" for layer, name in LAYERS.items()}
    return {layer: [row[key] for row in rows] for layer, key in keys.items() if key in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path, help="where the cells are")
    parser.add_argument("--data", choices=("fashion_mnist", "digits"), default="fashion_mnist")
    parser.add_argument("--steps", type=int, default=300, help="steps of 64 images of a cell (default 300)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each cell (default 3)")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 3e-2], help="learning rates of AdamW")
    arguments = parser.parse_args()
    workdirs: dict[tuple[float, str], list[Path]] = {}
    # Seed by seed, so that a table over fewer seeds is complete early.
    for seed in range(arguments.seeds):
        for rate in arguments.rates:
            for projection in PROJECTIONS:
                workdir = arguments.workdir / f"{arguments.data}-{rate:g}-{projection}-{seed}"
                if not (workdir / "summary.json").exists():
                    print(f"\nlearning rate {rate:g}, {projection} projection, seed {seed}", flush=True)
                    config = cell(arguments.data, rate, projection, seed, arguments.steps)
                    train(build_experiment(config), workdir)
                workdirs.setdefault((rate, projection), []).append(workdir)
    header = ["rate", "projection", *(f"spikes, {layer}" for layer in LAYERS), "last after first"]
    header += ["largest, first and last", "k-NN", "seconds"]
    rows = [[f"{rate:g}", projection, *_row(found)] for (rate, projection), found in workdirs.items()]
    print("\n" + table(header, rows))
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    (arguments.workdir / "table.md").write_text("\n".join(lines) + "\n")
    for rate in arguments.rates:
        found = {projection: workdirs[rate, projection] for projection in PROJECTIONS}
        figure(found, arguments.workdir / f"norms-{rate:g}.png", f"MoCo v3, learning rate {rate:g}")


def _row(workdirs: Sequence[Path]) -> list[str]:
    """Spikes over all seeds; how many of the last block's had one in the first trained layer before them; the largest
    norms of these two as multiples of their medians; accuracy and time."""
    runs = [norms_of(workdir) for workdir in workdirs]
    counts = [str(sum(len(spikes(run[layer])) for run in runs)) if layer in runs[0] else "-" for layer in LAYERS]
    first = next(layer for layer in LAYERS if layer in runs[0])
    late = sum(len(spikes(run["last block"])) for run in runs)
    led = sum(preceded(spikes(run["last block"]), spikes(run[first])) for run in runs)
    largest = [max(max(ratios(run[layer])) for run in runs) for layer in (first, "last block")]
    summaries = [json.loads((workdir / "summary.json").read_text()) for workdir in workdirs]
    accuracies = [100 * summary["knn/accuracy"] for summary in summaries]
    return [
        *counts,
        f"{led} of {late}",
        f"{largest[0]:.1f}x, {largest[1]:.1f}x",
        f"{statistics.mean(accuracies):.1f} ± {statistics.pstdev(accuracies):.1f}",
        f"{statistics.mean(summary['seconds'] for summary in summaries):.0f}",
    ]


def figure(workdirs: dict[str, list[Path]], path: Path, title: str) -> None:
    """The norms of each layer by step, one line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colors = dict(zip(PROJECTIONS, ("tab:blue", "tab:red"), strict=True))
    shown, axes = plt.subplots(len(LAYERS), 1, figsize=(8, 7), sharex=True, layout="constrained")
    for axis, layer in zip(axes, LAYERS, strict=True):
        for projection, found in workdirs.items():
            for i, norms in enumerate(norms_of(workdir) for workdir in found):
                if layer in norms:
                    label = f"{projection} projection" if i == 0 else None
                    axis.plot(norms[layer], color=colors[projection], linewidth=0.7, alpha=0.8, label=label)
        axis.set_yscale("log")
        axis.set_title(layer, loc="left", fontsize=10)
        axis.set_ylabel("gradient norm")
        axis.legend(loc="upper right", fontsize=8)
    axes[-1].set_xlabel("step")
    shown.suptitle(title)
    shown.savefig(path, dpi=120)
    plt.close(shown)


if __name__ == "__main__":
    as_command(main)
