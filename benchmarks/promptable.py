"""What a small SAM learns in ten minutes: clicks and boxes on composites, parts of scissors, and its own annotations.

Objects are 1,631 emoji cut out, on photos (`vit_jax prepare cutouts`), a part of both held out; nearly half of them lie
on plates, so that a click may mean two things. A model with three answers to a click stands beside one with a single
answer, and beside what needs no learning: flood fill from the click, all pixels of its colour, a disc around it; the
box itself, and GrabCut in it. Where one of these has a tolerance or a size, it is the best one of the test. Then one
click on a handle of drawn scissors, which may mean the handle, both handles or all. And the data engine: a model of
few labelled scenes annotates others, and is trained again on both. And EfficientViT-SAM: a smaller encoder that learns
the embedding of the first model's, and is then trained as it was.

    vit_jax prepare cutouts --from PACKAGE PHOTOS --output cutouts
    python benchmarks/promptable.py --data cutouts --workdir runs/promptable

Every run is a folder of its own; what is done is skipped and what was interrupted goes on, so the command can be
stopped and started again at will. After every seed it writes its tables to `table.md` in the workdir, with all figures
in `results.json`.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import Table, as_command, fit, once, spread, write_tables
from vit_jax.checkpoints.load import Loaded, load
from vit_jax.data import rle
from vit_jax.data.drawing import image_png
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.sources import composites, shapes
from vit_jax.evaluators.mask_generator import MaskGenerator
from vit_jax.training.config import load_config
from vit_jax.training.inputs import build_inputs

TOLERANCES = (2, 4, 8, 12, 16, 24, 32, 48, 64)  # levels of a colour
RADII = (4, 6, 8, 10, 12, 16)  # pixels of 64
CLICK = {
    "best of three": "click_1_best", "the one that it thinks best": "click_1", "the fourth": "click_1_single",
}  # fmt: skip
LABELLED, ANNOTATED = 200, 2000  # scenes
SURE = (0.6, 0.7, 0.8)  # least predicted IoU of a mask that is kept
GRID = 8  # clicks a side: one for each place of the embedding
MET = 0.7
SIDES, AT_ONCE, ROUNDS = (64, 256), 8, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="what `vit_jax prepare cutouts` wrote")
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument("--seeds", type=int, default=3, help="of the models (default 3)")
    parser.add_argument("--steps", type=int, default=3500, help="of a training (default 3500)")
    parser.add_argument("--student-steps", type=int, default=1500, help="of each of its two stages (default 1500)")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS), help="(default all)")
    parser.add_argument("--smoke", action="store_true", help="a few steps each")
    arguments = parser.parse_args()
    workdir = arguments.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments)
    everything: dict[str, Any] = {}
    if "composites" in arguments.cells:
        everything["baselines"] = once(workdir / "baselines.json", bench.baselines)
    for seed in range(arguments.seeds):
        for cell in arguments.cells:
            for name, found in CELLS[cell](bench, seed).items():
                everything.setdefault(name, []).append(found)
            report(workdir, everything)


class Bench:
    """The runs, by the arguments of the command line."""

    def __init__(self, arguments: argparse.Namespace):
        self._data, self._workdir, self._smoke = arguments.data, arguments.workdir, arguments.smoke
        more = ",smoke" if arguments.smoke else ""
        self._arguments = f"data={arguments.data},steps={arguments.steps}{more}"
        self._of_student = f"data={arguments.data},steps={arguments.student_steps}{more}"

    def composites(self, seed: int) -> dict[str, dict[str, float]]:
        """Three answers to a click, and one."""
        return {
            "three": self._fit(f"three-{seed}", f"composites_sam:seed={seed},{self._arguments}"),
            "single": self._fit(f"single-{seed}", f"composites_sam:seed={seed},single,{self._arguments}"),
        }

    def scissors(self, seed: int) -> dict[str, dict[str, float]]:
        """Whether one click on a handle finds the handle, both handles and all among its answers."""
        smoke = ",smoke" if self._smoke else ""
        run = f"scissors-{seed}"
        self._fit(run, f"shapes_sam:kinds=scissors,seed={seed}{smoke}")
        judge = functools.partial(handles, self._workdir / run, 4 if self._smoke else 200)
        return {"scissors": once(self._workdir / run / "handles.json", judge)}

    def engine(self, seed: int) -> dict[str, Any]:
        """A model of few scenes, what it annotates, and models of both."""
        few = f"composites_sam:seed={seed},scenes={LABELLED},{self._arguments}"
        found = {"few": self._fit(f"few-{seed}", few)}
        folder = self._workdir / f"annotated-{seed}"
        annotate = functools.partial(annotations, self._workdir / f"few-{seed}", self._data, folder, self._smoke)
        folder.mkdir(exist_ok=True)
        found["precision"] = once(folder / "precision.json", annotate)
        for least in SURE:
            spec = f"{few},annotations={folder / f'{least}.json'}"
            kept = found["precision"][str(least)]["masks"]
            found[f"both_{least}"] = self._fit(f"both-{least}-{seed}", spec) if kept else found["few"]
        return {f"engine_{name}": figures for name, figures in found.items()}

    def student(self, seed: int) -> dict[str, Any]:
        """A faster encoder with the decoder of the model with three answers: distilled, and then trained."""
        teacher, distilled, trained = (self._workdir / f"{name}-{seed}" for name in ("three", "distilled", "student"))
        of_teacher = self._fit(teacher.name, f"composites_sam:seed={seed},{self._arguments}")
        of = f"composites_distil:seed={seed},{self._of_student}"
        found = {
            "teacher": of_teacher,
            "distilled": self._fit(distilled.name, f"{of},init={teacher}"),
            "student": self._fit(trained.name, f"{of},stage=train,init={distilled}"),
        }
        speeds = functools.partial(images_per_second, {"teacher": teacher, "student": trained})
        return found | {"speed": once(self._workdir / f"speed-{seed}.json", speeds)}

    def baselines(self) -> dict[str, float]:
        """Mean IoU of what is not learned, on the test of the composites."""
        data = load_config(f"composites_sam:{self._arguments}")["data"]
        pipeline = build_inputs(data).eval_pipeline(data["eval_batch_size"], "data.eval")
        click, box = by_click(), {"the box itself": whole_box, "GrabCut": grab_cut}
        found: dict[str, list[float]] = {name: [] for name in [*click, *box]}
        for image, mask in pairs(pipeline):
            point, edges = middle(mask), box_of(mask)
            for name, answer in click.items():
                found[name].append(iou(smaller(answer(image, point), mask.shape), mask))
            for name, answer in box.items():
                found[name].append(iou(smaller(answer(image, edges), mask.shape), mask))
        means = {name: float(np.mean(values)) for name, values in found.items()}
        # Of each way the best tolerance or size.
        best: dict[str, float] = {}
        for name, value in means.items():
            kind = name.partition(",")[0]
            best[kind] = max(best.get(kind, 0.0), value)
        return best

    def _fit(self, name: str, spec: str) -> dict[str, float]:
        return fit(self._workdir / name, spec)


CELLS: Mapping[str, Callable[[Bench, int], dict[str, Any]]] = {
    "composites": Bench.composites, "scissors": Bench.scissors, "engine": Bench.engine, "student": Bench.student,
}  # fmt: skip


def pairs(pipeline: EvalPipeline) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each mask of each test scene with its image: those that the evaluator `clicks` asks for."""
    for batch in pipeline.iterate():
        for image, masks, there, real in zip(
            *(batch[name] for name in ("image", "masks", "masks_valid", "valid")), strict=True
        ):
            for mask in masks[there & (real > 0)] > 0:
                yield image, mask


def by_click() -> dict[str, Callable[[np.ndarray, tuple[float, float]], np.ndarray]]:
    """What finds a mask from a click (x, y), as shares of the sides."""
    ways = {f"flood fill, {t}": functools.partial(flood_fill, tolerance=t) for t in TOLERANCES}
    ways |= {f"its colour, {t}": functools.partial(same_color, tolerance=t) for t in TOLERANCES}
    return ways | {f"a disc, {r}": functools.partial(disc, radius=r) for r in RADII}


def flood_fill(image: np.ndarray, point: tuple[float, float], tolerance: int) -> np.ndarray:
    """Pixels that hang together with the click's, each within a tolerance of the click's colour."""
    mask = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.uint8)
    flags = 4 | (1 << 8) | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY
    cv2.floodFill(image.copy(), mask, pixel(image, point), 0, (tolerance,) * 3, (tolerance,) * 3, flags)
    return mask[1:-1, 1:-1] > 0


def same_color(image: np.ndarray, point: tuple[float, float], tolerance: int) -> np.ndarray:
    x, y = pixel(image, point)
    return (np.abs(image.astype(int) - image[y, x].astype(int)) <= tolerance).all(-1)


def disc(image: np.ndarray, point: tuple[float, float], radius: int) -> np.ndarray:
    rows, columns = np.indices(image.shape[:2])
    x, y = pixel(image, point)
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def whole_box(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    height, width = image.shape[:2]
    left, top, right, bottom = box
    found = np.zeros((height, width), bool)
    found[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    return found


def grab_cut(image: np.ndarray, box: tuple[float, float, float, float], rounds: int = 5) -> np.ndarray:
    """Rother et al. (2004), by OpenCV; the box itself where that leaves nothing, or the box is all there is."""
    inside = whole_box(image, box)
    if inside.all():
        return inside
    mask = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    cv2.setRNGSeed(0)
    cv2.grabCut(image, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), rounds, cv2.GC_INIT_WITH_MASK)
    found = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    return found if found.any() else inside


def middle(mask: np.ndarray) -> tuple[float, float]:
    """The deepest pixel of a mask, as the evaluator clicks, in shares of the sides."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(np.round(depth**2).argmax(), depth.shape)
    return (column + 0.5) / mask.shape[1], (row + 0.5) / mask.shape[0]


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def pixel(image: np.ndarray, point: tuple[float, float]) -> tuple[int, int]:
    return int(point[0] * image.shape[1]), int(point[1] * image.shape[0])


def smaller(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """At the size of the masks that are asked for: what is most of a pixel."""
    return cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA) >= 0.5


def iou(found: np.ndarray, wanted: np.ndarray) -> float:
    return float((found & wanted).sum() / max((found | wanted).sum(), 1))


def handles(run: Path, count: int) -> dict[str, float]:
    """One click on each handle of a pair of scissors: which of its meanings are among the three answers."""
    model = load(run)
    scenes = {k: v for k, v in model.metadata["config"]["data"]["eval"].items() if k != "name"}
    source = shapes.build(**scenes | {"length": count})
    met: dict[str, list[bool]] = {"the handle": [], "both handles": [], "the whole": [], "all three": []}
    for index in range(count):
        example = source[index]
        parts = objects(example, source.label_names)
        ask = model.prompted(example["image"])
        size = np.array(example["image"].shape[1::-1])
        for handle in parts["handle"]:
            if not handle.any():
                continue
            answers = ask(points=[tuple(np.array(middle(handle)) * size - 0.5)]).masks
            wanted = {"the handle": handle, "both handles": parts["handles"][0], "the whole": parts["scissors"][0]}
            found = {name: max(iou(answer, mask) for answer in answers) >= MET for name, mask in wanted.items()}
            for name, value in (found | {"all three": all(found.values())}).items():
                met[name].append(value)
    return {name: float(np.mean(values)) for name, values in met.items()}


def objects(example: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """The masks of a scene by the name of their class."""
    found: dict[str, list[np.ndarray]] = {}
    for each in example["masks"]:
        found.setdefault(names[each["class"]], []).append(each["segmentation"] > 0)
    return found


def annotations(run: Path, data: Path, folder: Path, smoke: bool) -> dict[str, dict[str, float]]:
    """Lets a model annotate scenes, once for all thresholds; writes a file for each, and returns how good it is."""
    model: Loaded = load(run)
    # Other scenes of the training's cut-outs and photos.
    source = composites.build(str(data), "train", 4 if smoke else ANNOTATED, seed=7)
    generator = MaskGenerator(points_per_side=GRID, least_iou=0.0 if smoke else min(SURE), least_stability=0.0)
    images, rows = [], []
    for index in range(len(source)):
        example = source[index]
        height, width = example["image"].shape[:2]
        name = f"{index:05d}.png"
        (folder / name).write_bytes(image_png(example["image"]))
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        real = [mask for masks in objects(example, source.label_names).values() for mask in masks]
        for each in generator(model.prompted, example["image"]):
            best = max(iou(rle.decode(each.rle), mask) for mask in real)
            rows.append(({"image_id": index + 1, "category_id": 1, "iscrowd": 0} | each.record(), best))
    found = {}
    for least in SURE:
        kept = [(row, best) for row, best in rows if row["predicted_iou"] > least]
        numbered = [row | {"id": k + 1} for k, (row, _) in enumerate(kept)]
        # Images of which nothing is kept teach nothing.
        used = {row["image_id"] for row in numbered}
        listed = [image for image in images if image["id"] in used]
        said = {"images": listed, "annotations": numbered, "categories": [{"id": 1, "name": "object"}]}
        (folder / f"{least}.json").write_text(json.dumps(said) + "\n", encoding="utf-8")
        scores = [best for _, best in kept]
        found[str(least)] = {
            "masks": len(kept), "scenes": len(listed),
            "iou": float(np.mean(scores)) if scores else 0.0,
            "precision": float(np.mean(np.array(scores) >= 0.5)) if scores else 0.0,
        }  # fmt: skip
    return found


def images_per_second(runs: Mapping[str, Path]) -> dict[str, float]:
    """How many images of some sizes each model embeds in a second, eight at a time: the fastest of many, in turn."""
    timed: dict[str, Callable[[], Any]] = {}
    for side in SIDES:
        for name, run in runs.items():
            model = load(run, image_size=side)
            embed = jax.jit(lambda v, x, m=model.model: m.apply(v, x, method="embed"))
            images = np.random.default_rng(0).normal(size=(AT_ONCE, side, side, 3)).astype(np.float32)
            timed[f"{name}/{side}"] = functools.partial(embed, {"params": model.params, **model.model_state}, images)
    fastest = dict.fromkeys(timed, float("inf"))
    for _ in range(ROUNDS + 1):  # compiling first
        for name, call in timed.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    return {name: AT_ONCE / seconds for name, seconds in fastest.items()}


def report(workdir: Path, everything: Mapping[str, Any]) -> None:
    """Prints the tables, and writes them and all figures into the workdir."""
    tables: list[Table] = []
    if "three" in everything:
        tables += click_tables(everything)
    if "scissors" in everything:
        found = everything["scissors"]
        rows = [[name, spread([run[name] for run in found])] for name in found[0]]
        tables.append(([f"one click on a handle, met by an answer at IoU {MET}, %", ""], rows))
    if "student" in everything:
        tables.append(student_table(everything))
    if "engine_few" in everything:
        tables.append(engine_table(everything))
    write_tables(workdir, tables, everything)


def click_tables(everything: Mapping[str, Any]) -> Iterator[Table]:
    three, single, simple = everything["three"], everything["single"], everything["baselines"]
    numbers = sorted({int(k.split("_")[1]) for k in three[0] if k.startswith("val/click_") and k.count("_") == 1})

    def of(runs: Sequence[Mapping[str, float]], name: str) -> str:
        return spread([run[f"val/{name}"] for run in runs]) if f"val/{name}" in runs[0] else ""

    rows = [[f"three answers, {said}", *(of(three, prefix + name) for prefix in ("", "nested_", "apart_"))]
            for said, name in CLICK.items() if name != "click_1_single"]  # fmt: skip
    rows.append(["a single answer", *(of(single, f"{prefix}click_1") for prefix in ("", "nested_", "apart_"))])
    by_hand = ("flood fill", "its colour", "a disc")
    rows += [[name, f"{100 * simple[name]:.1f}", "", ""] for name in by_hand]
    yield ["one click, mIoU %", "all masks", "nested", "apart"], rows
    header = ["clicks, mIoU %", *map(str, numbers), "boundary IoU after the last"]
    last = f"click_{numbers[-1]}_boundary"
    yield header, [[said, *(of(runs, f"click_{n}") for n in numbers), of(runs, last)]
                   for said, runs in (("three answers", three), ("a single answer", single))]  # fmt: skip
    rows = [["three answers, the one that it thinks best", of(three, "box"), of(three, "box_boundary")],
            ["a single answer", of(single, "box"), of(single, "box_boundary")]]  # fmt: skip
    rows += [[name, f"{100 * simple[name]:.1f}", ""] for name in ("the box itself", "GrabCut")]
    yield ["the box around a mask, %", "mIoU", "boundary IoU"], rows
    yield ["predicted IoU of answers to a click", "%"], [
        ["off by", of(three, "iou_error")], ["off by, in ten groups of as many", of(three, "iou_calibration")],
    ]  # fmt: skip


def student_table(everything: Mapping[str, Any]) -> Table:
    names = ("click_1_best", "click_1", "box")

    def row(said: str, runs: Sequence[Mapping[str, float]], model: str) -> list[str]:
        speeds = [spread([run[f"{model}/{side}"] for run in everything["speed"]], percent=False) for side in SIDES]
        return [said, *(spread([run[f"val/{name}"] for run in runs]) for name in names), *speeds]

    rows = [
        row("SAM: a ViT", everything["teacher"], "teacher"),
        row("EfficientViT-SAM, distilled", everything["distilled"], "student"),
        row("EfficientViT-SAM, then trained", everything["student"], "student"),
    ]
    columns = ["click, best of three", "click, picked", "box", *(f"images/s at {side} px" for side in SIDES)]
    return ["mIoU %", *columns], rows


def engine_table(everything: Mapping[str, Any]) -> Table:
    names = ("click_1_best", "click_1", "box")

    def row(said: str, runs: Sequence[Mapping[str, float]], kept: Sequence[str]) -> list[str]:
        return [said, *kept, *(spread([run[f"val/{name}"] for run in runs]) for name in names)]

    rows = [row(f"{LABELLED} labelled scenes", everything["engine_few"], ["", "", ""])]
    for least in SURE:
        of = [run[str(least)] for run in everything["engine_precision"]]
        kept = [
            f"{np.mean([run['masks'] for run in of]):.0f}",
            *(spread([run[k] for run in of]) for k in ("precision", "iou")),
        ]
        rows.append(row(f"and masks thought above {least}", everything[f"engine_both_{least}"], kept))
    columns = ["masks", "at IoU 0.5 real, %", "mIoU %", "click, best of three", "click, picked", "box"]
    return ["trained on", *columns], rows


if __name__ == "__main__":
    as_command(main)
