"""Whether a trunk that has learned to segment learns to detect sooner: a small YOLOS on composites.

The same steps from scratch, and from the trunk of a SAM that `composites_sam` trains on the same scenes.

    python benchmarks/detection.py --data composites --workdir runs/detection

`--data` is the folder that `vit_jax prepare cutouts` writes. Every run (arm, seed) is a folder of its own; what is done
is skipped and what was interrupted goes on. A run of SAM that is there, `--sam FOLDER`, serves all seeds. After every
run it writes its table to `table.md` in the workdir, with all figures in `results.json`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import as_command, fit, spread, write_tables

SCRATCH, PRETRAINED = "from scratch", "from SAM's trunk"
MEASURED = {"ap50": "AP50", "ap": "AP", "ap75": "AP75", "recall": "recall of 20"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="the folder of photos and cut-outs")
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument("--sam", type=Path, help="the workdir of a run of composites_sam; made without")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each arm (default 3)")
    parser.add_argument("--steps", type=int, default=4000, help="of each run (default 4000)")
    parser.add_argument("--smoke", action="store_true", help="a few steps each")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    # The smoke run of the config is on drawn shapes, which need no cut-outs.
    steps, scenes = (4, 16) if arguments.smoke else (arguments.steps, 20_000)
    found: dict[str, list[dict[str, float]]] = {SCRATCH: [], PRETRAINED: []}
    for seed in range(arguments.seeds):
        spec = f"composites_detect:root={arguments.data},steps={steps},scenes={scenes},seed={seed}"
        found[SCRATCH].append(fit(arguments.workdir / f"scratch-{seed}", spec))
        report(arguments.workdir, found)
        sam = arguments.sam
        if sam is None:
            sam = arguments.workdir / f"sam-{seed}"
            fit(sam, f"composites_sam:data={arguments.data},seed={seed}" + (",smoke" if arguments.smoke else ""))
        found[PRETRAINED].append(fit(arguments.workdir / f"pretrained-{seed}", f"{spec},init={sam}"))
        report(arguments.workdir, found)


def report(workdir: Path, found: dict[str, list[dict[str, float]]]) -> None:
    """Prints the table and writes it, and all figures, into the workdir."""
    rows = [
        [arm, *(spread([run[f"val/{name}"] for run in runs]) for name in MEASURED)]
        for arm, runs in found.items()
        if runs
    ]
    write_tables(workdir, [(["", *MEASURED.values()], rows)], found)


if __name__ == "__main__":
    as_command(main)
