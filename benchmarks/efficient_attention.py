"""What attention in windows, linear attention and windows that are left out are worth, on two cores.

A: Fashion-MNIST at random places of a 56x56 canvas, 28x28 tokens, one hierarchical trunk with the mixer exchanged
(configs/garment_mixers.py): attention among all tokens, in windows without and with shifts, linear attention without
and with aggregation at several scales. Accuracy, images per second, memory.

B: SparseViT on garments on a 64x64 canvas (configs/garment_sparse.py). Accuracy against pruning ratio, the same one in
all stages as far as they go, for the best windows and for random ones, before and after sparsity-aware adaptation; the
time of the blocks of each stage; what `vit_jax search-sparsity` finds within a latency, beside one ratio everywhere
within the same; and `kept.png`, which windows are kept.

    python benchmarks/efficient_attention.py --workdir runs/efficient_attention

Every run (mixer or stage, seed) is a folder of its own; what is done is skipped and what was interrupted goes on, so
the command can be stopped and started again at will. Times are measured once, after the first seed: leave the machine
alone then. After every seed it writes its tables to `table.md` in the workdir, with all figures in `results.json`.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kept_windows import kept_windows
from benchmarks.runs import Table, as_command, fit, once, spread, write_tables
from vit_jax.checkpoints.load import load
from vit_jax.commands.bench_model import measure_config
from vit_jax.commands.main import main as vit_jax
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.models.mixer_swin import Mixer
from vit_jax.nn.pruning import CHOICES
from vit_jax.planning.sparsity import accuracy_of, encoder_of, space_of, timed, uniform_ratios
from vit_jax.training.config import load_config

MIXERS = {
    "softmax": "softmax, all tokens",
    "window": "windows",
    "shifted": "windows, shifted in every second block",
    "linear": "linear",
    "multiscale": "linear, two scales",
}
STAGES = {"dense": "trained with all windows", "adapt": "adapted"}
SCORES = {"norm": "the best windows", "random": "random windows"}
LATENCY = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument(
        "--root", default=FASHION_MNIST, help=f"the IDX files of Fashion-MNIST (default {FASHION_MNIST})"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each run (default 3)")
    parser.add_argument("--only", choices=["a", "b"], help="one of the two experiments")
    parser.add_argument("--smoke", action="store_true", help="a few steps each, on scikit-learn's digits")
    arguments = parser.parse_args()
    workdir, more = arguments.workdir, f"root={arguments.root}" + (",smoke" if arguments.smoke else "")
    workdir.mkdir(parents=True, exist_ok=True)
    assert set(MIXERS) == set(get_args(Mixer))
    found: dict[str, Any] = {"mixers": {}, "speeds": {}, "curves": [], "found": [], "pairs": None}
    for seed in range(arguments.seeds):
        if arguments.only != "b":
            mixers(workdir, seed, more, found, rounds=2 if arguments.smoke else 20)
            report(workdir, found)
        if arguments.only != "a":
            sparse(workdir, seed, more, found, arguments.smoke)
            report(workdir, found)


def mixers(workdir: Path, seed: int, more: str, found: dict[str, Any], rounds: int) -> None:
    """Experiment A with one seed."""
    for mixer in MIXERS:
        spec = f"garment_mixers:mixer={mixer},seed={seed},{more}"
        found["mixers"].setdefault(mixer, []).append(fit(workdir / f"{mixer}-{seed}", spec))
    for mixer in MIXERS if seed == 0 else ():
        values = load_config(f"garment_mixers:mixer={mixer},{more}")
        measure = functools.partial(measure_config, values, classes=10, rounds=rounds, warmup=2)
        found["speeds"][mixer] = once(workdir / f"speed-{mixer}.json", measure)


def sparse(workdir: Path, seed: int, more: str, found: dict[str, Any], smoke: bool) -> None:
    """Experiment B with one seed."""
    runs = {stage: workdir / f"sparse-{stage}-{seed}" for stage in STAGES}
    for stage, run in runs.items():
        start = f",init={runs['dense']}" if stage == "adapt" else ""
        fit(run, f"garment_sparse:stage={stage},seed={seed},{more}{start}")
    examples = 20 if smoke else 2000
    of_seed = functools.partial(_curves, runs, examples, CHOICES[::4] if smoke else CHOICES)
    found["curves"].append(once(workdir / f"curves-{seed}.json", of_seed))
    adapted = load(runs["adapt"])
    if seed == 0:
        size, rounds = adapted.preprocess.image_size, 2 if smoke else 20
        found["pairs"] = once(
            workdir / "pairs.json", lambda: [of_stage[0] for of_stage in timed(adapted, size, 16, rounds).pairs]
        )
        kept_windows(adapted, uniform_ratios(space_of(encoder_of(adapted), size), 0.6), workdir / "kept.png")
    output = workdir / f"ratios-{seed}.json"
    few = ["--max-latency=0.99", "--generations=1", "--population=3", "--parents=2", "--examples=20"]
    some = [f"--max-latency={LATENCY}", "--generations=5", "--population=25", "--parents=8", "--examples=1000"]
    # A wide window, because there are only 648 ratios to choose from.
    asked = ["--checkpoint", str(runs["adapt"]), f"--seed={seed}", "--output", str(output), "--min-latency=0.2"]
    if not output.exists() and vit_jax(["search-sparsity", *asked, "--batch-size=16", *(few if smoke else some)]):
        sys.exit("The search did not end")
    found["found"].append(once(output, dict))


def _curves(runs: Mapping[str, Path], examples: int, ratios: tuple[float, ...]) -> dict[str, dict[str, float]]:
    """Accuracy by ratio, of each run and for each way to choose windows."""
    curves = {}
    for stage, run in runs.items():
        for scores in SCORES:
            loaded = load(run, overrides={"scores": scores})
            accuracy = accuracy_of(loaded, loaded.metadata["config"], examples)
            space = space_of(encoder_of(loaded), loaded.preprocess.image_size)
            curves[f"{stage} {scores}"] = {f"{r:.1f}": accuracy(uniform_ratios(space, r)) for r in ratios}
    return curves


def report(workdir: Path, found: Mapping[str, Any]) -> None:
    """Prints the tables and writes them, and all figures, into the workdir."""
    made = (_of_mixers(found), _of_curves(found), _of_pairs(found), _of_search(found))
    write_tables(workdir, [table for table in made if table[1]], found)


def _of_mixers(found: Mapping[str, Any]) -> Table:
    header = [
        "28x28 tokens",
        "accuracy, %",
        "training, images/s",
        "inference, images/s",
        "peak of training, MiB",
        "seconds",
    ]
    rows = []
    for mixer, of_seeds in found["mixers"].items():
        speed = found["speeds"].get(mixer)
        rates = [f"{speed[way]['images_per_second']:.0f}" for way in ("train", "inference")] if speed else ["", ""]
        peak = f"{speed['train']['peak_bytes'] / 2**20:.0f}" if speed else ""
        rows.append(
            [
                MIXERS[mixer],
                *_spreads(of_seeds, ("val/accuracy",)),
                *rates,
                peak,
                *_spreads(of_seeds, ("seconds",), False),
            ]
        )
    return header, rows


def _of_curves(found: Mapping[str, Any]) -> Table:
    curves = found["curves"]
    ratios = list(next(iter(curves[0].values()))) if curves else []
    rows = [
        [f"{STAGES[stage]}, {said}", *(spread([of_seed[f"{stage} {scores}"][r] for of_seed in curves]) for r in ratios)]
        for stage in STAGES if curves
        for scores, said in SCORES.items()
    ]  # fmt: skip
    return ["accuracy, %, without a share of windows of", *ratios], rows


def _of_pairs(found: Mapping[str, Any]) -> Table:
    """Milliseconds of two blocks, and of all stages together what share of the dense time is left."""
    pairs = found["pairs"] or []
    rows = [
        [f"stage {i}", *(f"{1e3 * s:.1f}" for s in seconds), *[""] * (len(CHOICES) - len(seconds))]
        for i, seconds in enumerate(pairs)
    ]
    if pairs:
        sums = [sum(seconds[min(i, len(seconds) - 1)] for seconds in pairs) for i in range(len(CHOICES))]
        rows.append(["all, of the dense time", *(f"{s / sums[0]:.2f}" for s in sums)])
    return ["two blocks, 16 images, ms", *(f"{ratio:.1f}" for ratio in CHOICES)], rows


def _of_search(found: Mapping[str, Any]) -> Table:
    rows = []
    entries: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "all windows": lambda one: one["dense"],
        "the same ratio everywhere": lambda one: one["uniform"],
        "found": lambda one: one,
    }
    for said, of in entries.items():
        entries_of = [of(one) for one in found["found"] if said != "the same ratio everywhere" or "uniform" in one]
        if entries_of:
            shown = "; ".join(str(entry["pruning_ratios"]) for entry in entries_of)
            rows.append([said, *_spreads(entries_of, ("accuracy",)), *_spreads(entries_of, ("latency",), False), shown])
    return [f"at most {LATENCY} of the latency", "accuracy, %", "latency, predicted", "ratios by seed"], rows


def _spreads(runs: list[dict[str, float]], keys: tuple[str, ...], percent: bool = True) -> list[str]:
    return [spread([run[key] for run in runs], percent) for key in keys]


if __name__ == "__main__":
    as_command(main)
