"""What image tokenizers and generators of their tokens are worth in minutes on two cores, by one judge.

Fashion-MNIST at 16x16 pixels (configs/fashion16.py). Tokenizers by pixels, by their codes, and by the Frechet distance
of their reconstructions; generators by 2,000 samples against the 10,000 test images: Frechet distance on the judge's
features, precision and recall, the share in which the judge sees the class that was asked for, images a second and
passes, with a cache and without. Real images, the same ones blurred, and noise stand beside them, as many of each.
Sheets: reconstructions against the number of codes, scalar against vector quantisation of the same latents, VAR's maps
one after the other, the order in which generators fill an image, HART's codes, what they leave, and both.

    python benchmarks/image_generation.py --workdir runs/image_generation

Every run (model, seed) is a folder of its own; what is done is skipped and what was interrupted goes on, so the command
can be stopped and started again at will. Speeds are measured once, after the first seed: leave the machine alone then.
After every run it writes its tables to `table.md` in the workdir, with all figures in `results.json`.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.image_sheets import sheets
from benchmarks.judged import judged, speed
from benchmarks.runs import Table, as_command, fit, spread_of, summary, write_tables
from vit_jax.data.sources.idx import FASHION_MNIST

# Of each tokenizer its rows, and the outputs that are measured: of those pixels, and what else is said of its run.
TOKENIZERS = {
    "vq": {"VQ, 8x8": ("reconstruction", "pixels")},
    "kl": {"KL, 8x8x4": ("reconstruction", "pixels")},
    "multiscale": {"multi-scale VQ, 1, 2, 4, 8": ("reconstruction", "pixels")},
    "hybrid": {
        "hybrid, 1, 2, 4, 8": ("reconstruction", "pixels"),
        "its codes alone": ("discrete_reconstruction", "discrete"),
    },
}
# Of each generator its tokenizer, and the settings with which it is sampled.
GENERATORS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "raster": ("vq", {"raster": {}, "raster, guided 1.5": {"guidance": 1.5}}),
    "maskgit": (
        "vq",
        {
            **{f"MaskGIT, {n} pass{'es' * (n > 1)}": {"steps": n} for n in (1, 4, 8, 16)},
            "MaskGIT, 8 passes, guided 2.5": {"steps": 8, "guidance": 2.5},
        },
    ),
    "mar": (
        "kl",
        {
            # The cosine schedule leaves 2e-9 of a token at its end: the fewer steps the head goes, the larger a mistake
            # of the first is made, up to 1,300 times with 25 steps, and the head's are not cut off as HART's are.
            **{f"MAR, {n} passes, 25 of the head": {"steps": n, "guidance": 1.0, "head_steps": 25} for n in (8, 32)},
            "MAR, 32 passes, 25 of the head, guided 2": {"steps": 32, "guidance": 2.0, "head_steps": 25},
            "MAR, 8 passes, 500 of the head": {"steps": 8, "guidance": 1.0, "head_steps": 500},
            "MAR, 32 passes, 500 of the head, guided 2": {"steps": 32, "guidance": 2.0, "head_steps": 500},
        },
    ),
    "var": (
        "multiscale",
        {"VAR": {"guidance": 0.0, "top_p": None}, "VAR, guided 2.5": {"guidance": 2.5, "top_p": None}},
    ),
    "hart": (
        "hybrid",
        {
            "HART": {"guidance": 0.0},
            "HART, guided 2.5": {"guidance": 2.5},
            "HART, guided 2.5, codes alone": {"guidance": 2.5, "steps": 0},
        },
    ),
}
CODES = (16, 32, 64, 256, 512)  # of further VQs, for the sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument(
        "--root", default=FASHION_MNIST, help=f"the IDX files of Fashion-MNIST (default {FASHION_MNIST})"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each run (default 3)")
    parser.add_argument(
        "--only", nargs="+", choices=[*TOKENIZERS, *GENERATORS], help="of these models alone, and what they need"
    )
    parser.add_argument("--steps", type=int, default=0, help="of each run but the judge (default those of the config)")
    parser.add_argument("--no-sheets", action="store_true", help="tables alone")
    parser.add_argument("--smoke", action="store_true", help="a few steps each, on scikit-learn's digits")
    arguments = parser.parse_args()
    board = Board(arguments)
    for seed in range(arguments.seeds):
        board.seed(seed)
    if not arguments.no_sheets:
        sheets(board, CODES[:1] if arguments.smoke else CODES)


class Board:
    """Runs and what was measured of them.

    Attributes:
        found: by the name of a row the measurements of all seeds.
    """

    def __init__(self, arguments: argparse.Namespace):
        arguments.workdir.mkdir(parents=True, exist_ok=True)
        self.workdir, self.smoke = arguments.workdir, arguments.smoke
        self.only = arguments.only or [*TOKENIZERS, *GENERATORS]
        needed = {GENERATORS[name][0] for name in self.only if name in GENERATORS}
        self.tokenizers = [name for name in TOKENIZERS if name in self.only or name in needed]
        self._count = 80 if self.smoke else 2000
        self._more = f"root={arguments.root}" + (",smoke" if self.smoke else "")
        self._steps = f",steps={arguments.steps}" if arguments.steps else ""
        self.found: dict[str, Any] = {"known": {}, "tokenizers": {}, "generators": {}, "speeds": {}}
        self.judge = self.run("judge", 0)

    def run(self, model: str, seed: int, further: str = "") -> Path:
        """The workdir of a model's run, which is trained where it is not."""
        run = self.workdir / (model + further.replace(",", "-").replace("=", "") + f"-{seed}")
        spec = f"fashion16:model={model},seed={seed},{self._more}{further}"
        if model != "judge":
            spec += self._steps
        if model in GENERATORS:
            spec += f",tokenizer={self.run(GENERATORS[model][0], seed)}"
        fit(run, spec)
        return run

    def seed(self, seed: int) -> None:
        """All runs of one seed."""
        for name in self.tokenizers:
            run = self.run(name, seed)
            for said, (output, pixels) in TOKENIZERS[name].items():
                measured = judged(run, self.judge, output, {}, self._count, run / f"board-{output}.json")
                last = summary(run)
                of_pixels = {k: last[f"{pixels}/{k}"] for k in ("psnr", "ssim")}
                measured |= {k: v for k, v in last.items() if k.startswith(("codes/", "seconds"))} | of_pixels
                self.found["tokenizers"].setdefault(said, []).append(measured)
            self.report()
        for name in (name for name in GENERATORS if name in self.only):
            run = self.run(name, seed)
            for number, (said, settings) in enumerate(GENERATORS[name][1].items()):
                measured = judged(run, self.judge, "samples", settings, self._count, run / f"board-{number}.json")
                measured["seconds"] = summary(run)["seconds"]
                # Another judge has features of another size: only in units of real images its distances are compared.
                measured["times real"] = measured["distance/frechet"] / measured["distance/real"]
                self.found["generators"].setdefault(said, []).append(measured)
                if seed == 0:
                    speeds = self.workdir / f"speed-{name}-{number}.json"
                    self.found["speeds"][said] = speed(run, settings, 8 if self.smoke else 64, speeds)
                self.report()

    def report(self) -> None:
        """Prints the tables and writes them, and all figures, into the workdir."""
        made = (_of_tokenizers(self.found), _of_generators(self.found), _of_caches(self.found))
        write_tables(self.workdir, [table for table in made if table[1]], self.found)


def _of_tokenizers(found: Mapping[str, Any]) -> Table:
    header = ["tokenizer", "parameters", "PSNR, dB", "SSIM", "codes used", "perplexity", "Frechet", "of real ones",
              "seen right, %", "seconds"]  # fmt: skip
    rows = [
        [
            name, f"{runs[0]['parameters']:,}", spread_of(runs, "psnr", 2),
            spread_of(runs, "ssim", 4), spread_of(runs, "codes/codes_used", 0), spread_of(runs, "codes/perplexity", 0),
            spread_of(runs, "distance/frechet", 3), spread_of(runs, "distance/real", 3),
            spread_of(runs, "seen/accuracy", 1, 100), spread_of(runs, "seconds", 0),
        ]
        for name, runs in found["tokenizers"].items()
    ]  # fmt: skip
    return header, rows


def _of_generators(found: Mapping[str, Any]) -> Table:
    header = ["generator", "parameters", "Frechet", "of real", "precision", "recall", "seen right, %", "images/s",
              "passes", "seconds"]  # fmt: skip
    rows = []
    for said, runs in found["generators"].items():
        speed = found["speeds"].get(said, {}).get("with", {})
        rows.append([
            said, f"{runs[0]['parameters']:,}", spread_of(runs, "distance/frechet", 2),
            spread_of(runs, "times real", 1), spread_of(runs, "near/precision", 2), spread_of(runs, "near/recall", 2),
            spread_of(runs, "seen/accuracy", 1, 100),
            f"{speed['images_per_second']:.0f}" if speed else "", str(speed.get("passes", "")),
            spread_of(runs, "seconds", 0),
        ])  # fmt: skip
    if rows:
        known = next(iter(found["generators"].values()))[:1]
        rows.append([
            "real images", "", spread_of(known, "distance/real", 2), "1", spread_of(known, "near/real_precision", 2),
            spread_of(known, "near/real_recall", 2), spread_of(known, "seen/real", 1, 100), "", "", "",
        ])  # fmt: skip
        for name in ("blurred", "noise"):
            times = known[0][f"distance/{name}"] / known[0]["distance/real"]
            rows.append([name, "", spread_of(known, f"distance/{name}", 2), f"{times:.0f}", *[""] * 6])
    return header, rows


def _of_caches(found: Mapping[str, Any]) -> Table:
    header = ["images/s", "with a cache", "without", "times", "bytes of it, an image"]
    rows = []
    for said, ways in found["speeds"].items():
        if "without" in ways:
            fast, slow = (ways[way]["images_per_second"] for way in ("with", "without"))
            size = ways["with"].get("cache_bytes")
            rows.append([said, f"{fast:.0f}", f"{slow:.0f}", f"{fast / slow:.1f}", f"{size:,}" if size else ""])
    return header, rows


if __name__ == "__main__":
    as_command(main)
