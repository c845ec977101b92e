"""What EfficientViT blocks learn of super-resolution by 2 in minutes on two cores, with attention and without.

Photos of which the middle 256x256 pixels are measured, and emoji of 64x64 pixels; beside bicubic, and beside the same
network without attention: as it is then, and with MBConvs of twice the width, which make it as large as before.

    python benchmarks/super_resolution.py --data composites --workdir runs/super_resolution

`--data` is the folder that `vit_jax prepare cutouts` writes: 23 photos and 1,356 emoji to learn from, 8 and 275 to
measure on. Every run (data, arm, seed) is a folder of its own; what is done is skipped and what was interrupted goes
on, so the command can be stopped and started again at will. After every run it writes its table to `table.md` in the
workdir, with all figures in `results.json`.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import as_command, fit, spread, write_tables
from vit_jax.checkpoints.load import load
from vit_jax.nn.parameter_count import parameter_count

ARMS = {
    "EfficientViT": "attention=yes",
    "without attention": "attention=no",
    "without attention, as large": "attention=no,expand=8",
}
SIZES = {"photos": 256, "cutouts": 64}  # pixels of what is measured
BICUBIC = "bicubic_"

Found = dict[str, dict[str, list[dict[str, float]]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="the folder of photos and cut-outs")
    parser.add_argument("--kinds", nargs="+", choices=SIZES, default=list(SIZES), help="which of them (default both)")
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each arm (default 3)")
    parser.add_argument("--steps", type=int, default=2000, help="of each run (default 2000)")
    parser.add_argument("--smoke", action="store_true", help="a few steps each")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    roots = {kind: _alone(arguments.data, kind, arguments.workdir / "data" / kind) for kind in arguments.kinds}
    found: Found = {name: {} for name in roots}
    counts: dict[str, int] = {}
    for seed in range(arguments.seeds):
        for name, root in roots.items():
            for arm, values in ARMS.items():
                run = arguments.workdir / f"{name}-{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
                spec = f"photos_sr:root={root},size={SIZES[name]},{values},steps={arguments.steps},seed={seed}"
                measured = fit(run, spec + (",smoke" if arguments.smoke else ""))
                found[name].setdefault(arm, []).append(measured)
                counts.setdefault(arm, parameter_count(load(run).model, 24))
                report(arguments.workdir, found, counts)


def _alone(data: Path, kind: str, root: Path) -> Path:
    """A folder with the images of one kind alone, by links."""
    for split in ("train", "test"):
        link = root / split / kind
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink((data / split / kind).resolve(), link)
    return root


def report(workdir: Path, found: Found, counts: dict[str, int]) -> None:
    """Prints the table and writes it, and all figures, into the workdir."""
    data = [name for name, arms in found.items() if arms]
    header = ["", "parameters"]
    for name in data:
        header += [f"{name}, PSNR of Y", "SSIM of Y", "better than bicubic"]
    rows = [["bicubic", "", *(cell for name in data for cell in _cells(next(iter(found[name].values()))[:1], BICUBIC))]]
    for arm, count in counts.items():
        cells = [cell for name in data for cell in (_cells(found[name][arm]) if arm in found[name] else [""] * 3)]
        rows.append([arm, f"{count:,}", *cells])
    write_tables(workdir, [(header, rows)], found)


def _cells(runs: list[dict[str, float]], prefix: str = "") -> list[str]:
    """Means and deviations over seeds."""
    noise, similar = ([run[f"val/{prefix}{name}_y"] for run in runs] for name in ("psnr", "ssim"))
    deviation = f" ± {statistics.pstdev(similar):.4f}" if len(similar) > 1 else ""
    better = "" if prefix else f"{100 * statistics.mean(run['val/better'] for run in runs):.0f}%"
    return [f"{spread(noise, percent=False)} dB", f"{statistics.mean(similar):.4f}{deviation}", better]


if __name__ == "__main__":
    as_command(main)
