"""What small models of pictures and words learn in minutes on two cores: CLIP from scratch, and LiT on trained towers.

1,906 emoji, 383 of them held out (`vit_jax prepare emoji`): which name goes with a picture and which picture with a
name, also of another artist's pictures, and into which of nine categories a picture belongs. Beside them stand ridge
regressions, which cost seconds: from what the same locked towers make of a picture to what they make of its name and
keywords, and from 16x16 pixels. Categories are told by their names (zero-shot), by those of their subcategories in two
ways (CHiLS, arXiv:2302.02551), and with labels by a linear probe and the nearest neighbour.

    python benchmarks/towers.py --output towers
    python benchmarks/clip.py --data emoji --towers towers --workdir runs/clip

Every run (model, seed) is a folder of its own; what is done is skipped and what was interrupted goes on, so the command
can be stopped and started again at will. After every run it writes its tables to `table.md` in the workdir, with all
figures in `results.json`; at the end `queries.png`, what the first CLIP finds for five names.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.clip_figure import queries
from benchmarks.runs import as_command, fit, once, spread, write_tables
from vit_jax.checkpoints.load import Loaded, load
from vit_jax.data.preprocess import Preprocess
from vit_jax.training.evaluation import evaluate_loaded

Found = dict[str, list[dict[str, float]]]
Rows = list[dict[str, Any]]

MODELS = {
    "clip": "CLIP from scratch",
    "lit": "LiT, DINOv2's architecture locked, MiniLM unlocked",
    "lit-names": "the same, trained on names alone",
}
RIDGES = {
    "dinov2": "ridge, locked features to locked MiniLM of names",
    "dinov2+keywords": "the same of names with keywords, in the test too",
    "pixels": "ridge, 16x16 pixels to locked MiniLM of names",
    "pixels+keywords": "the same of names with keywords, in the test too",
}
ARMS = ("category/accuracy", "category/mapped_up_accuracy", "category/reweighted_accuracy")
TEMPLATES = {"plain": "the name", "photo": "a photo of a", "imagenet_simple": "7 of CLIP", "imagenet": "80 of CLIP"}
PENALTIES = tuple(10.0**k for k in range(-1, 6))
RANKS = (1, 5, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="what `vit_jax prepare emoji` wrote")
    parser.add_argument("--towers", required=True, type=Path, help="what benchmarks/towers.py wrote")
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each model (default 3)")
    parser.add_argument("--smoke", action="store_true", help="a few steps each")
    arguments = parser.parse_args()
    data, towers, workdir = arguments.data, arguments.towers, arguments.workdir
    smoke = ",smoke" if arguments.smoke else ""
    workdir.mkdir(parents=True, exist_ok=True)
    baselines = once(workdir / "ridge.json", functools.partial(_ridges, data, towers))
    lit = f"emoji_lit:data={data},towers={towers}"
    specs = {"clip": f"emoji_clip:data={data}", "lit": lit, "lit-names": f"{lit},keywords=false"}
    found: Found = {}
    probes: dict[str, dict[str, float]] = {}
    templates: dict[str, dict[str, float]] = {}
    for seed in range(arguments.seeds):
        for name, spec in specs.items():
            run = workdir / f"{name}-{seed}"
            found.setdefault(name, []).append(fit(run, f"{spec},seed={seed}{smoke}"))
            if seed == 0 and name != "lit-names":  # whose features are those of the same locked tower
                probes[name] = once(workdir / f"probe-{name}.json", functools.partial(_probed, run, data))
            if seed == 0:
                templates[name] = once(workdir / f"templates-{name}.json", functools.partial(_by_templates, run, data))
            report(workdir, baselines, found, probes, templates)
    queries(load(workdir / "clip-0"), data, workdir / "queries.png")


def report(
    workdir: Path,
    baselines: Mapping[str, Any],
    found: Found,
    probes: Mapping[str, Any],
    templates: Mapping[str, Mapping[str, float]],
) -> None:
    """Prints the tables and writes them, and all figures, into the workdir."""

    def cells(name: str, *keys: str) -> list[str]:
        return [spread([run[key] for run in found[name]]) for key in keys]

    def seconds(name: str) -> str:
        return f"{statistics.mean(run['seconds'] for run in found[name]):.0f}"

    ranks = [f"retrieval/image_to_text_r{k}" for k in RANKS] + [f"retrieval/text_to_image_r{k}" for k in RANKS]
    art = [f"other_art/image_to_text_r{k}" for k in RANKS]
    names = [
        [said, *(f"{100 * baselines[name][key]:.1f}" for key in (*ranks, *art)), ""] for name, said in RIDGES.items()
    ]
    names += [[said, *cells(name, *ranks, *art), seconds(name)] for name, said in MODELS.items() if name in found]
    categories = [["the commonest category", f"{100 * baselines['commonest']:.1f}", "", "", "", ""]]
    for name, said in RIDGES.items():
        categories.append([said, *(f"{100 * baselines[name][arm]:.1f}" for arm in ARMS[:2]), "", "", ""])
    for name, said in MODELS.items():
        if name in found:
            probe = probes.get(name, {})
            labelled = [f"{100 * probe[key]:.1f}" if key in probe else "" for key in ("probe/accuracy", "knn/accuracy")]
            categories.append([said, *cells(name, *ARMS), *labelled])
    pixels = [f"{100 * probes['clip'][key]:.1f}" for key in ("pixel_probe/accuracy", "pixel_knn/accuracy")]
    categories.append(["pixels", "", "", "", *pixels])
    columns = [f"name, R@{k}" for k in RANKS] + [f"picture, R@{k}" for k in RANKS] + [f"2nd art, R@{k}" for k in RANKS]
    tables = [
        (["383 held-out emoji, %", *columns, "seconds"], names),
        (["9 categories, %", "9 names", "98 names, mapped up", "re-weighted", "linear probe", "1-NN"], categories),
    ]
    by_templates = [
        [MODELS[name], *(f"{100 * of[f'{key}/accuracy']:.1f}" for key in TEMPLATES)] for name, of in templates.items()
    ]
    tables.append((["9 categories by templates, one seed, %", *TEMPLATES.values()], by_templates))
    everything = {"baselines": baselines, "runs": found, "probes": probes, "templates": templates}
    write_tables(workdir, tables, everything)


def _probed(run: Path, data: Path) -> dict[str, float]:
    """Categories from features, by labels."""
    loaded = load(run)
    pairs = {"name": "pairs", "path": str(data / "google.jsonl"), "label_key": "category"}
    sets = {"train": {**pairs, "split": "train"}, "test": {**pairs, "split": "test"}}
    evals: dict[str, Any] = {}
    for prefix, features in (("", "features"), ("pixel_", "pixels")):
        if features == "pixels" and loaded.preprocess.image_size[0] > 64:
            continue
        evals[f"{prefix}knn"] = {"name": "knn", "k": 1, "features": features, **sets}
        evals[f"{prefix}probe"] = {"name": "linear_probe", "features": features, **sets}
    return evaluate_loaded(loaded, {**loaded.metadata["config"], "evals": evals})


def _by_templates(run: Path, data: Path) -> dict[str, float]:
    """Categories by their names in one template, and by the mean of several."""
    loaded = load(run)
    source = {"name": "pairs", "path": str(data / "google.jsonl"), "label_key": "category", "split": "test"}
    evals = {key: {"name": "zero_shot", "source": source, "templates": key} for key in TEMPLATES}
    return evaluate_loaded(loaded, {**loaded.metadata["config"], "evals": evals})


def _ridges(data: Path, towers: Path) -> dict[str, Any]:
    """Retrieval and categories by ridge regressions, and the share of the commonest category."""
    google, twitter = (_rows(data / f"{art}.jsonl") for art in ("google", "twitter"))
    train, test, other = (
        [row for row in rows if row["split"] == split]
        for rows, split in ((google, "train"), (google, "test"), (twitter, "test"))
    )
    subcategories = json.loads((data / "categories.json").read_text(encoding="utf-8"))
    categories = sorted(subcategories)
    above = [category for category in categories for _ in subcategories[category]]
    text, image = load(towers / "minilm"), load(towers / "dinov2", image_size=112)
    small = Preprocess(image_size=(16, 16))
    below = [subcategory for category in categories for subcategory in subcategories[category]]
    by_name, by_subcategory = _embedded(text, categories), _embedded(text, below)
    embedded = {
        keywords: [_embedded(text, [_said(row, keywords) for row in rows]) for rows in (train, test, other)]
        for keywords in (False, True)
    }
    given = {
        "dinov2": lambda rows: _features(image, data, rows),
        "pixels": lambda rows: np.stack([small(str(data / row["path"])).reshape(-1) for row in rows]),
    }
    found: dict[str, Any] = {}
    for name, features in given.items():
        x, x_test, x_other = (features(rows) for rows in (train, test, other))
        for keywords, (targets, of_test, of_other) in embedded.items():
            penalty = _chosen(x, targets)
            weights = _ridge(x, targets, penalty)
            seen, seen_other = (_with_one(some) @ weights for some in (x_test, x_other))
            right = [
                statistics.mean(names[best] == row["category"] for best, row in zip(bests, test, strict=True))
                for names, bests in (
                    (categories, (seen @ by_name.T).argmax(1)),
                    (above, (seen @ by_subcategory.T).argmax(1)),
                )
            ]
            found[f"{name}+keywords" if keywords else name] = {
                "penalty": penalty,
                **_recalls("retrieval", seen, of_test),
                **_recalls("other_art", seen_other, of_other),
                **dict(zip(ARMS, right, strict=False)),
            }
    commonest = statistics.mode(row["category"] for row in train)
    return {**found, "commonest": statistics.mean(row["category"] == commonest for row in test)}


def _said(row: Mapping[str, Any], keywords: bool) -> str:
    return ", ".join([row["text"], *(row["keywords"] if keywords else [])])


def _rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _embedded(text: Loaded, texts: Sequence[str]) -> np.ndarray:
    # The model takes 512 tokens, and no name with its keywords has more than 64.
    field, found = dataclasses.replace(text.fields["text"], length=64), []
    for start in range(0, len(texts), 64):
        some = [field.batched("text", field.read(one, "A name", None)) for one in texts[start : start + 64]]
        batch = {key: np.stack([np.asarray(row[key]) for row in some]) for key in some[0]}
        found.append(np.asarray(text.outputs(batch, ("features",))["features"]))
    return _unit(np.concatenate(found))


def _features(image: Loaded, data: Path, rows: Rows) -> np.ndarray:
    found = []
    for start in range(0, len(rows), 64):
        images = np.stack([image.preprocess(str(data / row["path"])) for row in rows[start : start + 64]])
        found.append(np.asarray(image.features(images)))
    return np.concatenate(found)


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The weights of a linear map with a bias, which is not penalised, as features have no mean of zero."""
    x = _with_one(x.astype(np.float64))
    penalties = np.diag([penalty] * (x.shape[1] - 1) + [1e-9])
    return np.linalg.solve(x.T @ x + penalties, x.T @ y)


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def _chosen(x: np.ndarray, y: np.ndarray) -> float:
    """The penalty with which the last fifth of the training pairs find each other best, learned on the others."""
    cut = len(x) * 4 // 5
    found = {p: _recalls("", _with_one(x[cut:]) @ _ridge(x[:cut], y[:cut], p), y[cut:]) for p in PENALTIES}
    return max(found, key=lambda p: found[p]["/image_to_text_r5"])


def _recalls(name: str, images: np.ndarray, texts: np.ndarray) -> dict[str, float]:
    """How often a picture's own name is among the first, and the other way round."""
    cosines = _unit(images) @ texts.T
    found = {}
    for way, scores in (("image_to_text", cosines), ("text_to_image", cosines.T)):
        own = np.diag(scores)[:, None]
        before = (scores > own).sum(axis=1)
        found |= {f"{name}/{way}_r{k}": float((before < k).mean()) for k in RANKS}
    return found


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


if __name__ == "__main__":
    as_command(main)
