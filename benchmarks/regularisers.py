"""What the main regularisers bring on Fashion-MNIST with few labels, at a fixed number of steps.

2,000 labelled images, seen 32 times by default: with all 60,000 a run of minutes sees each image too few times for any
regulariser to help. Accuracy and loss are those of all 10,000 test images, at the end.

    python benchmarks/regularisers.py --workdir runs/regularisers

Every cell (regulariser, seed) is a run of its own; cells that are done are skipped, so the command can be stopped and
started again at will. It ends with a table, which it also writes to `table.md` in the workdir.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import as_command
from vit_jax.commands.table import table
from vit_jax.training.config import load_config, override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

# Overrides of configs/fashion_mnist.py, whose own recipe flips and decays weights by 0.05.
COMMON = {
    "data.train.examples": "2000",
    "batch_size": "64",
    "optim.learning_rate": "1e-3",
    "optim.schedule.warmup_steps": "100",
    "eval_every": "none",
    "log_every": "250",
}
REGULARISERS = {
    "none": {"data.transform.flip": "false", "optim.weight_decay": "0"},
    "flip": {"optim.weight_decay": "0"},
    "flip, weight decay 0.05 (the config)": {},
    "+ weight decay 0.3 instead": {"optim.weight_decay": "0.3"},
    "+ dropout 0.1": {"model.dropout_rate": "0.1"},
    "+ stochastic depth 0.1": {"model.drop_path_rate": "0.1"},
    "+ label smoothing 0.1": {"task.label_smoothing": "0.1"},
    "+ mixup 0.2": {"data.mix.mixup": "0.2"},
    "+ cutmix 1.0": {"data.mix.cutmix": "1.0"},
    "+ random erasing 0.25": {"data.mix.erase": "0.25"},
    "+ shift 10%": {"data.transform.shift": "0.1", "data.transform.border": "constant"},
    "+ moving average 0.998": {"ema_decay": "0.998"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path, help="where the cells are")
    parser.add_argument("--steps", type=int, default=1000, help="steps of 64 images of a cell (default 1000)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each regulariser (default 3)")
    arguments = parser.parse_args()
    cells: dict[str, list[dict]] = {name: [] for name in REGULARISERS}
    # Seed by seed, so that a table over fewer seeds is complete early.
    for seed in range(arguments.seeds):
        for number, (name, changes) in enumerate(REGULARISERS.items()):
            workdir = arguments.workdir / f"{number:02d}-{seed}"
            summary = workdir / "summary.json"
            if not summary.exists():
                print(f"\n{name}, seed {seed}", flush=True)
                config = load_config(f"fashion_mnist:seed={seed}")
                train(build_experiment(override(config, COMMON | {"steps": str(arguments.steps)} | changes)), workdir)
            cells[name].append(json.loads(summary.read_text()))
    header = ["regulariser", "test accuracy", "test loss", "seconds"]
    rows = [[name, *_row(found)] for name, found in cells.items()]
    print("\n" + table(header, rows))
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    (arguments.workdir / "table.md").write_text("\n".join(lines) + "\n")


def _row(found: list[dict]) -> list[str]:
    accuracies, losses = ([100 * s["val/accuracy"] for s in found], [s["val/loss"] for s in found])
    spread = statistics.pstdev(accuracies)
    return [
        f"{statistics.mean(accuracies):.2f} ± {spread:.2f}",
        f"{statistics.mean(losses):.3f} ± {statistics.pstdev(losses):.3f}",
        f"{statistics.mean(s['seconds'] for s in found):.0f}",
    ]


if __name__ == "__main__":
    as_command(main)
