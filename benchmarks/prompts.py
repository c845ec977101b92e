"""What learned prompts are worth to a small CLIP: CoOp by the number of examples, CoCoOp on classes it has not seen.

The 20 largest subcategories of 1,906 emoji (`vit_jax prepare emoji`) are the classes, called by their names with blanks
for hyphens. Prompts are learned from 1 to 16 pictures of each, drawn from those that the CLIP was trained on: it has
seen them with their names and keywords, but without a subcategory. They are tested on held-out emoji, 211 of the same
artist and as many of another's. Beside CoOp (arXiv:2109.01134, figure 3) stand prompts written by hand and linear
probes on the same pictures; beside CoCoOp (arXiv:2203.05557, table 1), learned on the first ten classes, stands CoOp
learned on these. What the papers' settings for large models may not fit (learning rates, the length of the context) and
the penalties of the probes are chosen on a validation set: the other artist's pictures of training emoji.

    python benchmarks/clip.py --data emoji --towers towers --workdir runs/clip
    python benchmarks/prompts.py --data emoji --clip runs/clip/clip-0 --workdir runs/prompts

Every run is a folder of its own; what is done is skipped and what was interrupted goes on, so the command can be
stopped and started again at will. After every seed it writes its tables to `table.md` in the workdir, with all figures
in `results.json`, and the curves to `shots.png`.
"""

import argparse
import dataclasses
import functools
import json
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.prompts_figure import curves
from benchmarks.runs import Table, as_command, fit, once, spread, write_tables
from vit_jax.checkpoints.load import Loaded, load
from vit_jax.data.classes import base_classes
from vit_jax.data.sources import few_shot, folder
from vit_jax.evaluators.features import standardize
from vit_jax.evaluators.linear_probe import fit as fit_probe

CLASSES, SHOTS = 20, (1, 2, 4, 8, 16)
BY_HAND = ("{}", "{}.", "an emoji of {}.", "a picture of {}.")  # the first is how the CLIP's texts are written
VALIDATION = "validation"
SETS = {"val": ("google", "test"), "other_art": ("twitter", "test"), VALIDATION: ("twitter", "train")}
MEASURES = {"accuracy": "%", "balanced_accuracy": "% of each class, mean"}
TITLES = {"val": "held-out emoji", "other_art": "of another artist"}
PENALTIES = (100.0, 10.0, 1.0, 0.1, 0.01, 0.001)  # of the linear probe, from the strongest on
RATES = (0.0005, 0.002, 0.01)
LENGTHS = (4, 8)  # the text tower has 16 places: a start, the context, a name of up to 3 tokens, an end
USUAL = {"coop": {"rate": 0.002, "length": 4}, "cocoop": {"rate": 0.002}}  # as in the papers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="what `vit_jax prepare emoji` wrote")
    parser.add_argument("--clip", required=True, type=Path, help="a trained run of the config emoji_clip")
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the examples (default 3)")
    parser.add_argument("--smoke", action="store_true", help="a few steps each, and no choice of rates and lengths")
    arguments = parser.parse_args()
    workdir, seeds = arguments.workdir, range(arguments.seeds)
    workdir.mkdir(parents=True, exist_ok=True)
    counts = once(workdir / "classes.json", functools.partial(by_class, arguments.data, workdir / "classes"))
    bench = Bench(arguments.clip, workdir, ",smoke" if arguments.smoke else "")
    tried = SHOTS[:: len(SHOTS) - 1] if arguments.smoke else SHOTS
    everything: dict[str, Any] = {
        "classes": counts,
        "by_hand": once(workdir / "by_hand.json", bench.by_hand),
        "probe": once(workdir / "probe.json", functools.partial(bench.probes, tried, seeds)),
    }
    chosen = USUAL if arguments.smoke else once(workdir / "chosen.json", bench.chosen)
    everything |= {"chosen": chosen, "shots": tried, "coop": {}, "base_to_new": {"coop": [], "cocoop": []}}
    for seed in seeds:
        for shots in tried:
            everything["coop"].setdefault(str(shots), []).append(bench.coop(shots, seed, **chosen["coop"]))
        everything["base_to_new"]["coop"].append(bench.coop(16, seed, base=True, **chosen["coop"]))
        everything["base_to_new"]["cocoop"].append(bench.cocoop(seed, **chosen["cocoop"]))
        report(workdir, everything)


def by_class(data: Path, folders: Path) -> dict[str, dict[str, int]]:
    """Copies the pictures of the largest subcategories into folders, as the config `coop` reads them; counts them."""
    counts: dict[str, dict[str, int]] = {}
    for art in ("google", "twitter"):
        rows = [json.loads(line) for line in (data / f"{art}.jsonl").read_text(encoding="utf-8").splitlines()]
        largest = {name for name, _ in Counter(row["subcategory"] for row in rows).most_common(CLASSES)}
        for row in rows:
            if row["subcategory"] in largest:
                to = folders / art / row["split"] / row["subcategory"].replace("-", " ")
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(data / row["path"], to)
                of = counts.setdefault(f"{art}/{row['split']}", {})
                of[to.name] = of.get(to.name, 0) + 1
    return counts


@dataclasses.dataclass(frozen=True)
class Bench:
    """The cells of the tables.

    Args:
        clip: the checkpoint whose prompts are learned.
        workdir: where the folders of classes are, and the runs.
        smoke: what shortens a run.
    """

    clip: Path
    workdir: Path
    smoke: str

    def by_hand(self) -> dict[str, dict[str, float]]:
        """What hand-written prompts make of each set: of all classes, and of base and new ones by themselves."""
        names = self._source("val").label_names
        found = {}
        for template in BY_HAND:
            texts = self._loaded.embed_texts([template.format(name) for name in names])
            found[template] = {}
            for name in SETS:
                images, labels = self._embedded[name]
                found[template] |= {f"{name}/{key}": value for key, value in _judged(images @ texts.T, labels).items()}
        return found

    def probes(self, tried: Iterable[int], seeds: Iterable[int]) -> dict[str, list[dict[str, float]]]:
        """Linear probes for each number of shots, as text, and seed."""
        return {str(shots): [self.probe(shots, seed) for seed in seeds] for shots in tried}

    def probe(self, shots: int, seed: int) -> dict[str, float]:
        """A linear probe on the pictures that CoOp has with this seed, its penalty the best on the validation set."""
        few = few_shot.build(source=self._section("google", "train"), shots=shots, seed=seed)
        train = self._features([few[index]["path"] for index in range(len(few))])
        found: dict[float, dict[str, float]] = {}
        train, *sets = standardize(train, *(self._featured[name] for name in SETS))
        model = None
        for penalty in PENALTIES:
            model = fit_probe(train, few.labels, penalty, model)
            found[penalty] = {}
            for name, x in zip(SETS, sets, strict=True):
                labels = self._source(name).labels
                shares = _shares(model.predict(x) == labels, labels)
                found[penalty] |= {f"{name}/{key}": value for key, value in shares.items()}
        best = max(found, key=lambda penalty: found[penalty][f"{VALIDATION}/accuracy"])
        return {"penalty": best, **found[best]}

    def chosen(self) -> dict[str, Any]:
        """The rates and the length with which the first seed's 16 examples give the best validation accuracy."""
        coop = {
            (rate, length): self.coop(16, 0, rate=rate, length=length)[f"{VALIDATION}/accuracy"]
            for length in LENGTHS
            for rate in RATES
        }
        cocoop = {rate: self.cocoop(0, rate=rate)[f"{VALIDATION}/harmonic_mean"] for rate in RATES}
        rate, length = max(coop, key=coop.__getitem__)
        tried = {
            "coop": [[*cell, found] for cell, found in coop.items()],
            "cocoop": [[*cell] for cell in cocoop.items()],
        }
        return {
            "coop": {"rate": rate, "length": length},
            "cocoop": {"rate": max(cocoop, key=cocoop.__getitem__)},
            "tried": tried,
        }

    def coop(self, shots: int, seed: int, *, rate: float, length: int, base: bool = False) -> dict[str, float]:
        """A run of the config `coop`, with the paper's number of epochs."""
        arguments = f"shots={shots},length={length},seed={seed}{',base' if base else ''}"
        name = f"coop-{shots}{'-base' if base else ''}-{length}-{rate:g}-{seed}"
        return self._fit(name, "coop", arguments, rate, "base_to_new" if base else "classification")

    def cocoop(self, seed: int, *, rate: float) -> dict[str, float]:
        """A run of the config `cocoop`, with the paper's batch and number of epochs."""
        return self._fit(f"cocoop-{rate:g}-{seed}", "cocoop", f"seed={seed}", rate, "base_to_new")

    def _fit(self, name: str, config: str, arguments: str, rate: float, evaluator: str) -> dict[str, float]:
        spec = f"{config}:init={self.clip},data={self.workdir / 'classes' / 'google'},once,{arguments}{self.smoke}"
        changes = {"optim.learning_rate": str(rate)}
        for other in ("other_art", VALIDATION):
            changes[f"evals.{other}.name"] = evaluator
            changes |= {f"evals.{other}.source.{key}": text for key, text in self._section(*SETS[other]).items()}
        return fit(self.workdir / name, spec, changes)

    def _section(self, art: str, split: str) -> dict[str, str]:
        return {"name": "folder", "root": str(self.workdir / "classes" / art), "split": split}

    def _source(self, name: str) -> folder.FolderSource:
        art, split = SETS[name]
        return folder.build(str(self.workdir / "classes" / art), split)

    @functools.cached_property
    def _loaded(self) -> Loaded:
        return load(self.clip)

    @functools.cached_property
    def _embedded(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: (self._loaded.embed_images(self._paths(name)), self._source(name).labels) for name in SETS}

    @functools.cached_property
    def _featured(self) -> dict[str, np.ndarray]:
        return {name: self._features(self._paths(name)) for name in SETS}

    def _paths(self, name: str) -> list[str]:
        source = self._source(name)
        return [str(Path(source.root) / path) for path in source.paths]

    def _features(self, paths: list[str]) -> np.ndarray:
        found = []
        for start in range(0, len(paths), 64):
            images = np.stack([self._loaded.preprocess(path) for path in paths[start : start + 64]])
            found.append(np.asarray(self._loaded.features(images)))
        return np.concatenate(found)


def _judged(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What the evaluators `classification` and `base_to_new` say of scores [N, K]."""
    base = base_classes(scores.shape[1])
    right = scores.argmax(axis=1) == labels
    among = np.where(labels < base, scores[:, :base].argmax(axis=1), base + scores[:, base:].argmax(axis=1)) == labels
    old, new = among[labels < base].mean(), among[labels >= base].mean()
    found = {"base": old, "new": new, "harmonic_mean": 2 * old * new / (old + new)}
    return _shares(right, labels) | {name: float(value) for name, value in found.items()}


def _shares(right: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Of all examples, and the mean over the classes: a fifth of the test are flags."""
    balanced = np.mean([right[labels == label].mean() for label in np.unique(labels)])
    return {"accuracy": float(right.mean()), "balanced_accuracy": float(balanced)}


def report(workdir: Path, everything: Mapping[str, Any]) -> None:
    """Prints the tables and writes them, all figures, and the curves into the workdir."""
    tried = everything["shots"]
    by_hand, learned = everything["by_hand"], {"linear probe": everything["probe"], "CoOp": everything["coop"]}
    best = max(by_hand, key=lambda template: by_hand[template][f"{VALIDATION}/accuracy"])
    tables: list[Table] = []
    for name, title in TITLES.items():
        for key, said in MEASURES.items():
            tables.append(_curve_table(everything, f"{name}/{key}", f"20 classes, {title}, {said}", best))
    keys = [f"{name}/{key}" for name in TITLES for key in ("base", "new", "harmonic_mean")]
    rows = [[f"by hand: {best!r}", *(f"{100 * by_hand[best][key]:.1f}" for key in keys)]]
    for said, name in (("CoOp, 16 shots", "coop"), ("CoCoOp, 16 shots", "cocoop")):
        found = everything["base_to_new"][name]
        rows.append([said, *(spread([run[key] for run in found]) for key in keys)])
    columns = ["base", "new", "H", *(f"2nd art, {key}" for key in ("base", "new", "H"))]
    tables.append((["learned on the first 10 classes, %", *columns], rows))
    write_tables(workdir, tables, everything)
    drawn = {
        said: {name: [[run[f"{name}/accuracy"] for run in found[str(k)]] for k in tried] for name in TITLES}
        for said, found in learned.items()
    }
    curves(TITLES, tried, drawn, {name: by_hand[best][f"{name}/accuracy"] for name in TITLES}, workdir / "shots.png")


def _curve_table(everything: Mapping[str, Any], key: str, title: str, best: str) -> Table:
    """A measure by the number of examples, for every way to classify."""
    by_hand, tried = everything["by_hand"], everything["shots"]
    empty = [""] * len(tried)
    rows = [[f"by hand: {template!r}", f"{100 * found[key]:.1f}", *empty] for template, found in by_hand.items()]
    for said, found in (("linear probe", everything["probe"]), ("CoOp", everything["coop"])):
        rows.append([said, "", *(spread([run[key] for run in found[str(shots)]]) for shots in tried)])
    gains = [statistics.mean(run[key] for run in everything["coop"][str(k)]) - by_hand[best][key] for k in tried]
    rows.append([f"CoOp above {best!r}, the best by hand in validation", "", *(f"{100 * gain:+.1f}" for gain in gains)])
    return [title, "0 shots", *map(str, tried)], rows


if __name__ == "__main__":
    as_command(main)
