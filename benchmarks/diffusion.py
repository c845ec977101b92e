"""What diffusion is worth in minutes on two cores: steps against quality, latents against pixels, and what is between.

Two parts. Digits of 8x8 pixels (configs/ddpm_digits.py) with the linear schedule and the cosine: 400 samples by DDIM
in 5 to 50 steps and by DDPM in all 200, by 5 nearest neighbours among the training digits (is the class that was asked
for seen?) and by the Frechet distance of their pixels, beside held-out digits and noise. Garments of 16x16 pixels
(configs/ddpm_fashion16.py), in the latents of an autoencoder and in pixels, by the judge of configs/fashion16.py as
`benchmarks/image_generation.py` has it: steps by guidance, images a second, and what lies between two garments of one
class in pixels, in latents and in noise. Sheets and curves beside the tables.

    python benchmarks/diffusion.py --workdir runs/diffusion

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

from benchmarks.diffusion_digits import digits_of, measured_digits
from benchmarks.diffusion_sheets import sheets
from benchmarks.judged import judged, speed
from benchmarks.midpoints import midpoints
from benchmarks.runs import Table, as_command, fit, once, spread_of, summary, write_tables
from vit_jax.data.sources.idx import FASHION_MNIST

SCHEDULES = ("linear", "cosine")
# Of digits and of garments how they are drawn.
DIGITS: dict[str, dict[str, Any]] = {
    **{f"DDIM, {n} steps": {"sampler": "ddim", "steps": n} for n in (5, 10, 25, 50)},
    "DDIM, 10 steps, trailing": {"sampler": "ddim", "steps": 10, "spacing": "trailing"},
    "DDIM, 10 steps, guided 1.5": {"sampler": "ddim", "steps": 10, "guidance": 1.5},
    "DDPM, 200 steps": {"sampler": "ddpm"},
    **{f"DDIM, {n} steps, noise fitted": {"sampler": "ddim", "steps": n, "fit_noise": True} for n in (10, 25, 50)},
}
GARMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "latents": {
        f"{n} steps, guided {g:g}": {"sampler": "ddim", "steps": n, "guidance": g}
        for g, steps in ((1.5, (2, 5, 10, 25, 50)), (1.0, (10, 25)), (4.0, (10, 25)))
        for n in steps
    },
    "pixels": {
        **{f"{n} steps, guided 1.5": {"sampler": "ddim", "steps": n, "guidance": 1.5} for n in (5, 10, 25, 50)},
        **{
            f"{n} steps, guided 1.5, noise fitted": {"sampler": "ddim", "steps": n, "guidance": 1.5, "fit_noise": True}
            for n in (10, 25, 50)
        },
    },
}  # fmt: skip
BETWEEN = 25  # steps of DDIM, up and down


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument(
        "--root", default=FASHION_MNIST, help=f"the IDX files of Fashion-MNIST (default {FASHION_MNIST})"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each run (default 3)")
    parser.add_argument("--only", nargs="+", choices=["digits", *GARMENTS], help="of these parts alone")
    parser.add_argument("--steps", type=int, default=0, help="of each diffusion's run (default those of the config)")
    parser.add_argument("--no-sheets", action="store_true", help="tables alone")
    parser.add_argument("--smoke", action="store_true", help="a few steps each, on scikit-learn's digits")
    arguments = parser.parse_args()
    board = Board(arguments)
    for seed in range(arguments.seeds):
        board.seed(seed)
    if not arguments.no_sheets:
        sheets(board, ways())


def ways() -> dict[str, dict[str, dict[int, str]]]:
    """Rows that differ in their steps alone: by the part and the label of a line their names by the steps."""
    plain = {said: how for said, how in DIGITS.items() if set(how) == {"sampler", "steps"}}
    digits = {of: {how["steps"]: f"{of}, {said}" for said, how in plain.items()} for of in SCHEDULES}
    garments: dict[str, dict[int, str]] = {}
    for space, rows in GARMENTS.items():
        for said, how in rows.items():
            fitted = ", noise fitted" if "fit_noise" in how else ""
            label = f"{space}, guided {how['guidance']:g}{fitted}"
            garments.setdefault(label, {})[how["steps"]] = f"{space}, {said}"
    return {"digits": digits, "garments": garments}


class Board:
    """Runs and what was measured of them.

    Attributes:
        found: by the part and the name of a row the measurements of all seeds.
    """

    def __init__(self, arguments: argparse.Namespace):
        arguments.workdir.mkdir(parents=True, exist_ok=True)
        self.workdir, self.smoke, self._root = arguments.workdir, arguments.smoke, arguments.root
        self._steps = f",steps={arguments.steps}" if arguments.steps else ""
        self._length = {"steps": str(arguments.steps)} if arguments.steps else {}
        self.only = arguments.only or ["digits", *GARMENTS]
        self.found: dict[str, Any] = {"digits": {}, "garments": {}, "between": {}, "speeds": {}}

    def run(self, model: str, seed: int) -> Path:
        """The workdir of a model's run, which is trained where it is not: "judge", "kl", "latents", "pixels", or a
        schedule of digits."""
        run = self.workdir / f"{model}-{seed}"
        smoke = ",smoke" if self.smoke else ""
        if model in SCHEDULES:
            fit(run, f"ddpm_digits:schedule={model},seed={seed}{smoke}", self._length)
        elif model in GARMENTS:
            tokenizer = f",tokenizer={self.run('kl', seed)}" if model == "latents" else ""
            fit(run, f"ddpm_fashion16:space={model},seed={seed},root={self._root}{smoke}{self._steps}{tokenizer}")
        else:
            fit(run, f"fashion16:model={model},seed={seed},root={self._root}{smoke}")
        return run

    def seed(self, seed: int) -> None:
        """All runs of one seed."""
        for schedule in SCHEDULES[: 1 if self.smoke else None] if "digits" in self.only else ():
            run = self.run(schedule, seed)
            for number, (said, settings) in enumerate(self._some(DIGITS)):
                name = f"{schedule}, {said}"
                measured = measured_digits(run, settings, 80 if self.smoke else 400, run / f"board-{number}.json")
                self.found["digits"].setdefault(name, []).append(measured | {"seconds": summary(run)["seconds"]})
                self._speed(seed, run, name, settings)
                self.report()
        for space in (space for space in GARMENTS if space in self.only):
            run, judge = self.run(space, seed), self.run("judge", 0)
            count = 80 if self.smoke else 2000
            for number, (said, settings) in enumerate(self._some(GARMENTS[space])):
                measured = judged(run, judge, "samples", settings, count, run / f"board-{number}.json")
                measured |= {"seconds": summary(run)["seconds"]}
                self.found["garments"].setdefault(f"{space}, {said}", []).append(measured)
                self._speed(seed, run, f"{space}, {said}", settings)
                self.report()
            of = midpoints(run, judge, 80 if self.smoke else 1000, BETWEEN, run / "between.json")
            for name, distance in of.items():
                self.found["between"].setdefault(f"{space}, {name}", []).append({"frechet": distance})
            self.report()

    def _some(self, rows: Mapping[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        """All rows; in a smoke test, where each is a program to be compiled, the first two."""
        return list(rows.items())[: 2 if self.smoke else None]

    def _speed(self, seed: int, run: Path, name: str, settings: Mapping[str, Any]) -> None:
        if seed == 0:
            file = self.workdir / f"speed-{name.replace(', ', '-').replace(' ', '-')}.json"
            self.found["speeds"][name] = speed(run, settings, 8 if self.smoke else 64, file)["with"]

    def report(self) -> None:
        """Prints the tables and writes them, and all figures, into the workdir."""
        known = once(self.workdir / "digits.json", digits_of) if self.found["digits"] else {}
        made = (_of_digits(self.found, known), _of_garments(self.found), _of_between(self.found))
        write_tables(self.workdir, [table for table in made if table[1]], self.found | {"known digits": known})


def _of_digits(found: Mapping[str, Any], known: Mapping[str, Mapping[str, float]]) -> Table:
    header = ["digits", "seen right by 5 neighbours, %", "Frechet of pixels", "images/s", "passes", "seconds"]
    rows = [
        [name, spread_of(runs, "accuracy", 1, 100), spread_of(runs, "frechet", 2), *_pace(found, name),
         spread_of(runs, "seconds", 0)]
        for name, runs in found["digits"].items()
    ]  # fmt: skip
    rows += [[name, spread_of([of], "accuracy", 1, 100), spread_of([of], "frechet", 2), "", "", ""]
             for name, of in known.items()]  # fmt: skip
    return header, rows


def _of_garments(found: Mapping[str, Any]) -> Table:
    header = ["garments", "parameters", "Frechet", "precision", "recall", "seen right, %", "images/s", "passes",
              "seconds"]  # fmt: skip
    rows = [
        [name, f"{runs[0]['parameters']:,}", spread_of(runs, "distance/frechet", 2),
         spread_of(runs, "near/precision", 2), spread_of(runs, "near/recall", 2),
         spread_of(runs, "seen/accuracy", 1, 100), *_pace(found, name), spread_of(runs, "seconds", 0)]
        for name, runs in found["garments"].items()
    ]  # fmt: skip
    if rows:
        known = next(iter(found["garments"].values()))[:1]
        keys = ("near/real_precision", 2, 1), ("near/real_recall", 2, 1), ("seen/real", 1, 100)
        near = [spread_of(known, key, digits, factor) for key, digits, factor in keys]
        rows.append(["real images", "", spread_of(known, "distance/real", 2), *near, "", "", ""])
        rows += [[name, "", spread_of(known, f"distance/{name}", 2), *[""] * 6] for name in ("blurred", "noise")]
    return header, rows


def _of_between(found: Mapping[str, Any]) -> Table:
    header = [f"half-way between two garments of one class, {BETWEEN} steps", "Frechet"]
    return header, [[name, spread_of(runs, "frechet", 2)] for name, runs in found["between"].items()]


def _pace(found: Mapping[str, Any], name: str) -> tuple[str, str]:
    pace = found["speeds"].get(name)
    return (f"{pace['images_per_second']:.0f}", str(pace.get("passes", ""))) if pace else ("", "")


if __name__ == "__main__":
    as_command(main)
