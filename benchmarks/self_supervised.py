"""What self-supervised pretraining is worth: the same small ViT trained four ways, and measured in five.

Fashion-MNIST with each garment at a random place of a canvas of 36x36 pixels, see configs/shifted_fashion.py. All that
is measured comes from the 10,000 test images. Nearest neighbours and the linear probe (by SGD) have the first 20,000
training images; features are means over the tokens after the last norm. Fine-tuning has the first 1,000 labels
(configs/shifted_fashion_finetune.py), and of the random initialisation it is training from scratch. Whether time makes
up for pretraining is a second table: the first seed trained for longer, from scratch and from SimCLR.

    python benchmarks/self_supervised.py --workdir runs/self_supervised

Every cell (method, seed) is a folder with a run, its measurement in `worth.json`, and its fine-tuning; what is done is
skipped, so the command can be stopped and started again at will. After every seed it writes its tables to `table.md` in
the workdir, with all figures of all cells in `results.json`.
"""

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import as_command
from vit_jax.checkpoints.load import load
from vit_jax.commands.table import table
from vit_jax.training.config import load_config, override
from vit_jax.training.evaluation import evaluate_loaded
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

# As `shifted_fashion:method=` names them; the first is the other's model before its first step.
METHODS = {
    "random": "random initialisation",
    "supervised": "supervised, 60,000 labels",
    "mae": "MAE",
    "moco_v3": "MoCo v3",
    "simclr": "SimCLR",
}
FINE_TUNED = ("random", "mae", "moco_v3", "simclr")  # the supervised ones have seen all labels
LENGTHS = (1500, 3000, 6000)  # steps on the few labels; the first for every seed
LONGER = ("random", "simclr")
COLUMNS = {
    "knn/accuracy": "k-NN",
    "fewshot/1shot": "1-shot",
    "fewshot/10shot": "10-shot",
    "fewshot/25shot": "25-shot",
    "probe/accuracy": "linear probe",
    "1000/val/accuracy": "fine-tuned, 1,000 labels",
    "seconds": "seconds of training",
}
PIXELS = "raw pixels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path, help="where the cells are")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each method (default 3)")
    parser.add_argument("--smoke", action="store_true", help="a few steps each, on scikit-learn's digits")
    arguments = parser.parse_args()
    workdir, smoke = arguments.workdir, ",smoke" if arguments.smoke else ""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in (PIXELS, *METHODS)}
    longer: dict[str, dict[int, dict[str, float]]] = {name: {} for name in LONGER}
    for seed in range(arguments.seeds):
        for method in METHODS:
            run = workdir / f"{method}-{seed}"
            found = once(run / "summary.json", functools.partial(pretrain, method=method, seed=seed, smoke=smoke))
            results[method].append(found | once(run / "worth.json", measure))
        if not results[PIXELS]:  # they do not depend on a seed
            of_pixels = functools.partial(measure, run=workdir / "random-0", features="pixels")
            results[PIXELS].append(once(workdir / "pixels" / "worth.json", of_pixels))
        report(workdir, results, longer)
    # What is affordable last: with the first seed alone there is a table of nearly everything.
    for seed in range(arguments.seeds):
        for method in FINE_TUNED:
            few = fine_tuned(workdir, method, seed, LENGTHS[0], smoke)
            results[method][seed] |= {f"1000/{name}": value for name, value in few.items()}
        report(workdir, results, longer)
    for steps in LENGTHS:
        for method in LONGER:
            longer[method][steps] = fine_tuned(workdir, method, 0, steps, smoke)
        report(workdir, results, longer)


def fine_tuned(workdir: Path, method: str, seed: int, steps: int, smoke: str) -> dict[str, float]:
    """What training on the few labels gives, with a cell's trunk at its start."""
    start = "" if method == "random" else f"init={workdir / f'{method}-{seed}'},"
    spec = f"shifted_fashion_finetune:{start}steps={steps},seed={seed}{smoke}"
    run = workdir / f"{method}-{seed}-1000-{steps}"
    return once(run / "summary.json", functools.partial(fit, spec=spec))


def once(file: Path, make: Callable[[Path], None]) -> dict[str, float]:
    """What `make` writes into a file; it is called when the file is not there."""
    if not file.exists():
        print(f"\n{file.parent.name}, {file.stem}", flush=True)
        make(file.parent)
    return json.loads(file.read_text())


def fit(run: Path, spec: str, changes: dict[str, str] | None = None) -> None:
    """Trains a config."""
    train(build_experiment(override(load_config(spec), changes or {})), run)


def pretrain(run: Path, method: str, seed: int, smoke: str) -> None:
    """Trains a cell; the one before training has a step at a learning rate of zero, which changes nothing."""
    still = {"steps": "1", "optim.learning_rate": "0.0", "optim.schedule.warmup_steps": "0"}
    changes = still if method == "random" else {}
    fit(run, f"shifted_fashion:method={'supervised' if method == 'random' else method},seed={seed}{smoke}", changes)


def measure(cell: Path, run: Path | None = None, features: str = "features") -> None:
    """Runs the evaluators on the checkpoint of a run, as `vit_jax evaluate` does, and keeps what they say."""
    loaded = load(run or cell)
    config = loaded.metadata["config"]
    bank = config["data"]["train"]
    if bank["name"] != "digits":
        bank = {**bank, "examples": 20_000}
    shared: dict[str, Any] = {"train": bank, "test": config["data"]["eval"], "features": features}
    evals = {
        "knn": {"name": "knn", "k": 20, **shared},
        "fewshot": {"name": "fewshot", "shots": [1, 10, 25], **shared},
        "probe": {"name": "sgd_probe", **shared},
    }
    if features == "pixels":
        evals["probe"]["learning_rate"] = 1e-3  # at that of 96 features it would diverge with 3,888
    metrics = evaluate_loaded(loaded, {**config, "evals": evals})
    cell.mkdir(parents=True, exist_ok=True)
    (cell / "worth.json").write_text(json.dumps(metrics, indent=2) + "\n")


def report(workdir: Path, results: dict[str, list[dict]], longer: dict[str, dict[int, dict]]) -> None:
    """Prints the tables and writes them, and all figures, into the workdir."""
    for found in results["random"]:
        found.pop("seconds", None)
    rows = []
    for name, found in results.items():
        cells = [[cell[column] for cell in found if column in cell] for column in COLUMNS]
        rows.append([METHODS.get(name, name), *(spread(*pair) for pair in zip(COLUMNS, cells, strict=True))])
    tables = [(["features of", *COLUMNS.values()], rows)]
    steps = list(longer[LONGER[-1]])
    if steps:
        header = ["steps on 1,000 labels", "from scratch", "from SimCLR", "difference", "seconds from scratch"]
        of_steps = []
        for count in steps:
            scratch, start = (longer[name][count] for name in LONGER)
            gain = 100 * (start["val/accuracy"] - scratch["val/accuracy"])
            cells = [spread("accuracy", [cell["val/accuracy"]]) for cell in (scratch, start)]
            of_steps.append([f"{count:,}", *cells, f"{gain:+.1f}", spread("seconds", [scratch["seconds"]])])
        tables.append((header, of_steps))
    text = "\n".join(
        "".join("| " + " | ".join(row) + " |\n" for row in (header, ["---"] * len(header), *rows))
        for header, rows in tables
    )
    (workdir / "table.md").write_text(text)
    (workdir / "results.json").write_text(json.dumps({"cells": results, "longer": longer}, indent=2) + "\n")
    for header, rows in tables:
        print("\n" + table(header, rows))


def spread(column: str, values: list[float]) -> str:
    """Mean and standard deviation: accuracies in per cent, and of seconds the mean."""
    if not values:
        return ""
    if column == "seconds":
        return f"{statistics.mean(values):.0f}"
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.pstdev(values):.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    as_command(main)
