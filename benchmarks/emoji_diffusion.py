"""What a latent diffusion of emoji has learned of their names, on two cores: texts, guidance, edges, holes.

The autoencoder, CLIP, the U-Net and the ControlNet of configs/emoji_diffusion.py and configs/emoji_clip.py. Of each
name that is held out one image is drawn, with guidance 1, 3 and 7.5, and CLIP says how near it is to its name, whether
its name is among the first of all held-out names, and whether it sees its category, by the names of 98 subcategories.
Beside them the same of a U-Net after two steps, of images that were asked for without a text, of names that training
had, and of the pictures themselves. CLIP's text tower is what the U-Net reads, and its image tower has seen the
training pictures alone: it says whether a text is followed, not how an image looks to people. Then edges: how well
samples follow those of held-out pictures, with control and without. And holes: what is left outside of a mask.

    vit_jax prepare emoji --from node_modules --output emoji
    python benchmarks/emoji_diffusion.py --data emoji --workdir runs/emoji_diffusion

Every run is a folder of its own; what is done is skipped and what was interrupted goes on, so the command can be
stopped and started again at will. After every seed it writes its tables to `table.md` in the workdir, with all figures
in `results.json`, and after all of them sheets.
"""

import argparse
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import Table, as_command, fit, once, spread_of, write_tables
from vit_jax.checkpoints.load import Loaded, load
from vit_jax.data.decode import decode
from vit_jax.data.edges import edge_map, edges
from vit_jax.evaluators.clip_score import clip_score
from vit_jax.evaluators.edge_agreement import edge_f1
from vit_jax.inspection.diffusion_figures import rows_figure
from vit_jax.training.evaluation import evaluate_loaded

GUIDANCE = (1.0, 3.0, 7.5)
SAMPLER = {"sampler": "ddim", "steps": 25}
ROWS = {
    "real": "the pictures themselves",
    **{f"held out, {g:g}": f"held-out names, guidance {g:g}" for g in GUIDANCE},
    "trained, 3": "as many names of training, guidance 3",
    "no text": "without a text",
    "untrained, 3": "a U-Net after two steps, guidance 3",
}
CONTROL = {"without": 0.0, "with": 1.0}
HOLE = slice(10, 22)  # rows and columns of 32
# Held-out names.
SHOWN = ("red heart", "green apple", "blue circle", "neutral face", "ten o’clock", "rose", "yellow square",
         "owl", "horse", "fire engine")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="what `vit_jax prepare emoji` wrote")
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument("--seeds", type=int, default=3, help="of the U-Net and the ControlNet (default 3)")
    parser.add_argument("--smoke", action="store_true", help="a few steps each, on a few names")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    board = Board(arguments.data, arguments.workdir, arguments.smoke)
    everything: dict[str, list[Any]] = {"texts": [], "edges": [], "holes": []}
    for seed in range(arguments.seeds):
        everything["texts"].append(board.texts(seed))
        everything["edges"].append(board.edges(seed))
        everything["holes"].append(board.holes(seed))
        write_tables(arguments.workdir, tables(everything), everything)
    board.sheets()


class Board:
    """Runs, and what is measured of them.

    Args:
        data: pictures and names.
        workdir: where runs are.
        smoke: whether each is a few steps, on a few names.
    """

    def __init__(self, data: Path, workdir: Path, smoke: bool):
        self._data, self._workdir, self._smoke = data, workdir, smoke
        rows = [json.loads(line) for line in (data / "google.jsonl").read_text(encoding="utf-8").splitlines()]
        held_out = [row for row in rows if row["split"] == "test"][: 12 if smoke else None]
        self._rows = {"held out": held_out, "trained": [r for r in rows if r["split"] == "train"][: len(held_out)]}
        self._below = json.loads((data / "categories.json").read_text(encoding="utf-8"))

    def run(self, what: str, seed: int = 0) -> Path:
        """The workdir of a run, which is trained where it is not: "clip", "kl", "unet", "untrained" or "edges"."""
        run = self._workdir / (what if what in ("clip", "kl") else f"{what}-{seed}")
        more = f",data={self._data}" + (",smoke" if self._smoke else "")
        if what == "clip":
            fit(run, f"emoji_clip:{more[1:]}")
        elif what == "kl":
            fit(run, f"emoji_diffusion:stage=autoencoder{more}")
        elif what == "edges":
            fit(run, f"emoji_diffusion:stage=edges,diffusion={self.run('unet', seed)},seed={seed}{more}")
        else:
            no_more = ",steps=2" if what == "untrained" else ""
            made_of = f"autoencoder={self.run('kl')},text={self.run('clip')}"
            fit(run, f"emoji_diffusion:{made_of},seed={seed}{more}{no_more}")
        return run

    def texts(self, seed: int) -> dict[str, dict[str, float]]:
        """Of each of `ROWS` what CLIP says."""
        return {row: once(self._file("texts", row, seed), functools.partial(self._of, row, seed)) for row in ROWS}

    def edges(self, seed: int) -> dict[str, dict[str, float]]:
        """How samples follow the edges of held-out pictures."""
        found = {}
        for name, scale in CONTROL.items():
            section = {
                "name": "edge_agreement", "count": len(self._rows["held out"]),
                "settings": {**SAMPLER, "guidance": 3.0, "control_scale": scale},
            }  # fmt: skip
            found[name] = self._evaluated("edges", name, seed, section)
        return found | {"the most": once(self._file("kl", "edges", 0), self._edges_of_reconstructions)}

    def holes(self, seed: int) -> dict[str, dict[str, float]]:
        """What is left outside of a box that is drawn anew."""
        found = {}
        for name, paste in {"by the sampler": False, "pasted back": True}.items():
            section = {
                "name": "kept_pixels", "count": len(self._rows["held out"]), "paste": paste,
                "settings": {**SAMPLER, "guidance": 3.0},
            }  # fmt: skip
            found[name] = self._evaluated("unet", name, seed, section)
        return found

    def sheets(self) -> None:
        """`texts.png`, some prompts by guidance, and `changed.png`, pictures drawn anew, wholly and in a part, and by
        their edges."""
        model = load(self.run("unet"))
        drawn = {
            f"guidance {g:g}": model.sample(len(SHOWN), prompts=SHOWN, guidance=g, **SAMPLER).images for g in GUIDANCE
        }
        self._write("texts", rows_figure(drawn, SHOWN))
        apart = slice(0, None, max(1, len(self._rows["held out"]) // len(SHOWN)))  # the file is in the order of Unicode
        images = self._pictures("held out")[apart][: len(SHOWN)]
        names = [row["text"] for row in self._rows["held out"][apart][: len(SHOWN)]]
        anew = functools.partial(model.sample, len(names), guidance=3.0, **SAMPLER)
        image, mask = images.astype(np.float32) / 127.5 - 1, np.zeros((*images.shape[:3], 1), np.float32)
        mask[:, HOLE, HOLE] = 1
        control = np.stack([edges(picture) for picture in images]).astype(np.float32) / 255
        rows = {"held out": images}
        for said, prompts in {"by their names": names, '"red heart"': ["red heart"] * len(names)}.items():
            rows[f"{said}, strength 0.6"] = anew(prompts=prompts, pictures={"image": image}, strength=0.6).images
        rows["with a hole"] = np.where(mask > 0, 127, images).astype(np.uint8)
        rows["filled in"] = anew(prompts=names, pictures={"image": image, "mask": mask}, paste=True).images
        rows["their edges"] = np.round(255 * control).astype(np.uint8)
        anew = functools.partial(load(self.run("edges")).sample, len(names), guidance=3.0, **SAMPLER)
        for said, prompts in {"by their names": names, '"red heart"': ["red heart"] * len(names)}.items():
            rows[f"{said} and edges"] = anew(prompts=prompts, pictures={"control": control}).images
        self._write("changed", rows_figure(rows))

    def _of(self, row: str, seed: int) -> dict[str, float]:
        """What CLIP says of one row."""
        which, _, guidance = row.partition(", ")
        rows = self._rows["trained" if which == "trained" else "held out"]
        names = [each["text"] for each in rows]
        if which == "real":
            images = self._pictures("held out")
        else:
            model = load(self.run("untrained" if which == "untrained" else "unet", seed))
            prompts = [""] * len(names) if which == "no text" else names
            images = model.sample(
                len(names), seed=seed, prompts=prompts, guidance=float(guidance or 1), **SAMPLER
            ).images
        return self._judged(load(self.run("clip")), images, names, [each["category"] for each in rows])

    def _judged(
        self, clip: Loaded, images: UInt8[np.ndarray, "n h w 3"], names: Sequence[str], categories: Sequence[str]
    ) -> dict[str, float]:
        """CLIP score, in how many percent an image's name is the first or among the first ten, and its category."""
        seen = clip.embed_images(list(images))
        texts = clip.embed_texts(list(names))
        # Of names that occur twice either is right; of equal scores the one's own comes last.
        scores = seen @ texts.T
        own = np.array([[a == b for b in names] for a in names])
        best = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
        rank = ((scores >= best) & ~own).sum(axis=1)
        finer = [(sub, category) for category, subs in self._below.items() for sub in subs]
        answers = (seen @ clip.embed_texts([sub for sub, _ in finer]).T).argmax(axis=1)
        right = [finer[answer][1] == category for answer, category in zip(answers, categories, strict=True)]
        return {
            "score": clip_score(seen, texts), "first": float((rank == 0).mean()), "ten": float((rank < 10).mean()),
            "category": float(np.mean(right)),
        }  # fmt: skip

    def _edges_of_reconstructions(self) -> dict[str, float]:
        """As `edges`, of the pictures themselves after the autoencoder: samples that are right in all else."""
        images, model = self._pictures("held out"), load(self.run("kl"))
        shown = [model.preprocess(image) for image in images]
        parts = [np.stack(shown[i : i + 64]) for i in range(0, len(shown), 64)]
        made = np.concatenate([model.outputs(part, ("reconstruction",))["reconstruction"] for part in parts])
        found = np.stack([edge_map(image) for image in np.round(255 * made.clip(0, 1)).astype(np.uint8)])
        wanted = np.stack([edge_map(image) for image in images])
        pairs = {"f1": wanted, "exchanged": np.roll(wanted, 1, axis=0)}
        scores = {name: [edge_f1(*pair) for pair in zip(found, of, strict=True)] for name, of in pairs.items()}
        return {**{name: float(np.mean(of)) for name, of in scores.items()}, "edges": float(found.mean())}

    def _evaluated(self, what: str, name: str, seed: int, section: Mapping[str, Any]) -> dict[str, float]:
        """What an evaluator says of a run; kept in a file."""

        def measure() -> dict[str, float]:
            loaded = load(self.run(what, seed))
            found = evaluate_loaded(loaded, {**loaded.metadata["config"], "evals": {"of": section}})
            return {key.removeprefix("of/"): value for key, value in found.items()}

        return once(self._file(what, name, seed), measure)

    def _file(self, what: str, name: str, seed: int) -> Path:
        return self._workdir / f"{what}-{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"

    def _pictures(self, which: str) -> UInt8[np.ndarray, "n h w 3"]:
        """As the diffusion sees them."""
        preprocess = load(self.run("unet")).preprocess
        paths = [self._data / row["path"] for row in self._rows[which]]
        return np.stack([preprocess.to_uint8(decode(path)) for path in paths])

    def _write(self, name: str, figure: Any) -> None:
        figure.savefig(self._workdir / f"{name}.png")


def tables(everything: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> list[Table]:
    """Texts, edges, holes."""

    def cells(part: str, row: str, *keys: tuple[str, int, float]) -> list[str]:
        return [spread_of([seed[row] for seed in everything[part]], key, digits, times) for key, digits, times in keys]

    said = (("score", 1, 1.0), ("first", 1, 100.0), ("ten", 1, 100.0), ("category", 1, 100.0))
    texts = [[name, *cells("texts", row, *said)] for row, name in ROWS.items()]
    named = {**{row: f"{row} control" for row in CONTROL}, "the most": "the pictures through the autoencoder"}
    edged = [
        [name, *cells("edges", row, ("f1", 3, 1.0), ("exchanged", 3, 1.0), ("edges", 3, 1.0))]
        for row, name in named.items()
    ]
    kept = [
        [row, *cells("holes", row, ("exact", 1, 100.0), ("l1", 4, 1.0), ("new", 4, 1.0))]
        for row in everything["holes"][0]
    ]
    return [
        (["emoji, by CLIP", "CLIP score", "its name first, %", "among ten, %", "its category, %"], texts),
        (["edges of held-out emoji", "F1", "of another picture", "share of pixels"], edged),
        (["outside of a hole", "exact, %", "mean difference", "inside"], kept),
    ]


if __name__ == "__main__":
    as_command(main)
