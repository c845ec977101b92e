"""What adapters are worth beside full fine-tuning, on scikit-learn's digits, and what their checkpoints take.

The demo's small ViT is trained on the digits 0 to 6 at 16 pixels (config `digits`), and then learns all ten as in
config `digits_finetune`, but at its own 16 pixels and 64 images a step: in full, by a linear head alone, by LoRA on
queries and values or on all kernels (arXiv:2106.09685), or by prompts (arXiv:2203.12119). Steps, batches and
augmentation are the same for all; full fine-tuning has the config's weight decay, the other ways have none. The
learning rate of each is the one of five that does best on a fifth of the training digits, which is held out for that.
With `--base` another network takes the place of the demo's, such as one that `load` reads from a file; its new head
may want a much higher rate than the rest of it (`--head-times`).

    python benchmarks/adapters.py --workdir runs/adapters

Every run is a folder of its own; what is done is skipped and what was interrupted goes on, so the command can be
stopped and started again at will. After every seed it writes its table to `table.md` in the workdir, with all figures
in `results.json`.
"""

import argparse
import functools
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import as_command, fit, fit_config, once, spread, summary, write_tables
from vit_jax.checkpoints.load import load
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_metadata, read_params
from vit_jax.checkpoints.transfer import flat_arrays, starting_point
from vit_jax.commands.sweep import developed
from vit_jax.training.config import load_config

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
HELD_OUT = 0.2
# What each way changes of the config; a frozen trunk stays in the base.
_OPTIM = {"weight_decay": 0.0}
ADAPTED = {"optim": _OPTIM, "checkpoint": {"frozen": "base"}}
FROZEN = {**ADAPTED, "optim": {**_OPTIM, "frozen": ["encoder/.*"]}}
WAYS: dict[str, dict[str, Any]] = {
    "full fine-tuning": {},
    "LoRA, rank 4": {**ADAPTED, "lora": {"rank": 4}},
    "LoRA on all kernels, rank 1": {**ADAPTED, "lora": {"rank": 1, "match": "encoder/.*/kernel"}},
    "linear head": FROZEN,
    "20 prompts": {**FROZEN, "prompts": {"num_prompts": 20}},
    "20 prompts a block": {**FROZEN, "prompts": {"num_prompts": 20, "deep": True}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each way (default 3)")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS), help="these ways; all by default")
    parser.add_argument("--steps", type=int, default=240, help="of each run (default 240)")
    parser.add_argument("--base", help="a trained network instead of the demo's")
    parser.add_argument("--size", type=int, default=16, help="side of the digits in pixels (default 16)")
    parser.add_argument("--batch", type=int, default=64, help="images of a step (default 64)")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help=f"to choose from (default {RATES})")
    parser.add_argument(
        "--head-times",
        type=float,
        default=1.0,
        help="how much higher the head's rate is in full fine-tuning (default 1)",
    )
    parser.add_argument("--smoke", action="store_true", help="a few steps each")
    arguments = parser.parse_args()
    workdir = arguments.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments)
    everything: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for seed in range(arguments.seeds):
        for way in arguments.only:
            everything[way].append(bench.measured(way, seed))
        report(workdir, everything)


class Bench:
    """The runs, by the arguments of the command line."""

    def __init__(self, arguments: argparse.Namespace):
        smoke, self._head_times = arguments.smoke, arguments.head_times
        self._workdir, self._rates = arguments.workdir, arguments.rates[:2] if smoke else arguments.rates
        base = arguments.base or self._workdir / "base"
        if not arguments.base:
            fit(base, "digits:smoke" if smoke else "digits")
        self._config = load_config(f"digits_finetune:init={base}" + (",smoke" if smoke else ""))
        if arguments.base:
            self._config["model"], sections = starting_point(str(base), arguments.size)
            self._config["data"] |= sections
        self._config["data"]["image_size"] = [arguments.size, arguments.size]
        if not smoke:
            self._config |= {"steps": arguments.steps, "batch_size": arguments.batch}

    def measured(self, way: str, seed: int) -> dict[str, float]:
        """What the table says of one way, at the rate that is best for the first seed."""
        name = re.sub(r"\W+", "-", way.lower())
        tried = self._held_out(way, name)
        rate = float(max(tried, key=tried.__getitem__))
        run = self._workdir / f"{name}-{seed}"
        fit_config(run, self.config(way, seed, rate))
        return once(run.with_suffix(".json"), functools.partial(measure, run)) | {"rate": rate}

    def config(self, way: str, seed: int, rate: float) -> dict[str, Any]:
        """The config of one way."""
        found = changed(self._config, WAYS[way], seed, rate)
        if not WAYS[way] and self._head_times != 1:
            found["optim"]["learning_rate_multipliers"] = [("head/.*", self._head_times)]
        return found

    def _held_out(self, way: str, name: str) -> dict[str, float]:
        """By each rate the accuracy on digits that are held out of the training set."""
        found = {}
        for rate in self._rates:
            run = self._workdir / f"{name}-rate-{rate:g}"
            config = developed(self.config(way, 0, rate), HELD_OUT)
            found[str(rate)] = fit_config(run, config)["val/accuracy"]
        return found


def changed(values: Mapping[str, Any], way: Mapping[str, Any], seed: int, rate: float) -> dict[str, Any]:
    """The config of one way; of `way` sections are added to those of the config."""
    values = json.loads(json.dumps(values)) | {"seed": seed}
    values["optim"] |= {"learning_rate": rate} | way.get("optim", {})
    values["checkpoint"] |= way.get("checkpoint", {})
    if "lora" in way:
        values["lora"] = way["lora"]
    if "prompts" in way:
        values["model"] = {"name": "vpt", "trunk": values["model"], **way["prompts"]}
    return values


def measure(run: Path) -> dict[str, float]:
    """What the table says of a run."""
    step = find(run)
    saved = flat_arrays(read_params(step, "params")[0])
    config = read_metadata(step)["config"]
    own = config.get("lora") or config["optim"].get("frozen")  # the encoder is not among what is trained
    trained = sum(np.size(x) for name, x in saved.items() if not (own and name.startswith("encoder/")))
    size = sum(file.stat().st_size for file in Path(step).rglob("*") if file.is_file())
    found = summary(run)
    return {
        "accuracy": found["val/accuracy"],
        "loss": found["val/loss"],
        "trained": float(trained),
        "parameters": float(sum(np.size(x) for x in flat_arrays(load(run).params).values())),
        "bytes": float(size),
        "seconds": found["seconds"],
    }


def report(workdir: Path, everything: Mapping[str, list[dict[str, float]]]) -> None:
    rows = [
        [
            way,
            spread([run["accuracy"] for run in runs]),
            f"{runs[0]['trained']:,.0f}",
            f"{100 * runs[0]['trained'] / runs[0]['parameters']:.2f}%",
            f"{runs[0]['bytes'] / 1e3:,.0f} kB",
            f"{runs[0]['rate']:g}",
        ]
        for way, runs in everything.items()
        if runs
    ]
    header = ("way", "test accuracy", "parameters trained", "share", "a step on disk", "learning rate")
    write_tables(workdir, [(header, rows)], everything)


if __name__ == "__main__":
    as_command(main)
