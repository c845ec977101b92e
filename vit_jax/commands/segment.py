"""Masks of what is pointed at in a photo, or of everything in it; and class maps by a semantic checkpoint.

examples:
  vit_jax segment --checkpoint runs/sam photo.jpg --points 120,80 --output masks
  vit_jax segment --checkpoint runs/sam photo.jpg --points 120,80 60,40,- --box 20,10,200,150 --output masks
  vit_jax segment --checkpoint runs/sam photo.jpg --mask drawn.png --output masks
  vit_jax segment --checkpoint runs/sam-text photo.jpg --text "a red heart" --output masks
  vit_jax segment --checkpoint runs/sam photos/ --everything --least-iou 0.7 --output masks
  vit_jax segment --checkpoint runs/cityscapes photos/ --output maps         # a class for each pixel

A point is x,y in pixels of the photo; with ,- behind it is not on what is meant. One point, box or text may mean
several things and has three answers, the one first that the model thinks best; more prompts together have one. Texts
are for models that were trained to take them, by the task 'sam_text'.

Of each photo are written: NAME_overlay.png, NAME_mask_0.png and so on (white on black), and NAME.json with each mask's
run lengths as COCO writes them, predicted IoU and stability; or NAME_overlay.png and NAME_classes.png, the number of
the class of each pixel. Names have a number in front where there are several photos.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.image_files import expand, left_out, read_ahead
from vit_jax.commands.output import output_folder
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    import numpy as np

    from vit_jax.checkpoints.load import Loaded
    from vit_jax.evaluators.mask_generator import MaskGenerator

_THRESHOLDS = {
    "points_per_side": (int, "N", "clicks in a row, and rows of clicks (default 32)"),
    "least_iou": (float, "SHARE", "keep what the model thinks better than this (default 0.88)"),
    "least_stability": (float, "SHARE", "keep what its threshold changes by no more (default 0.95)"),
    "crop_layers": (int, "N", "also look at parts of the photo: 1 for 2x2, 2 for 4x4 too (default 0)"),
    "least_area": (int, "PIXELS", "leave out smaller islands, and fill smaller holes (default 0)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or directories")
    parser.add_argument(
        "--points", nargs="+", action="extend", default=[], metavar="X,Y[,-]", help="points on it, or with - not on it"
    )
    parser.add_argument("--box", metavar="X0,Y0,X1,Y1", help="a box around it: left, top, right, bottom")
    parser.add_argument("--mask", metavar="FILE", help="an image of the photo's size, black where it is not")
    parser.add_argument("--text", metavar="WORDS", help="what it is called, for a model that takes texts")
    parser.add_argument("--everything", action="store_true", help="all masks that a grid of clicks finds")
    parser.add_argument("--output", required=True, metavar="DIR", help="where files are written")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="photos at a time, for classes (8)")
    add_thresholds(parser)


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """What a grid of clicks keeps, see `generator`."""
    group = parser.add_argument_group("a grid of clicks")
    for name, (kind, metavar, help_text) in _THRESHOLDS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=help_text)


def generator(arguments: argparse.Namespace) -> MaskGenerator:
    """What `add_thresholds` asks for."""
    from vit_jax.evaluators.mask_generator import MaskGenerator
    from vit_jax.naming import construct

    given = {name: getattr(arguments, name) for name in _THRESHOLDS if getattr(arguments, name) is not None}
    return construct(MaskGenerator, given, "the grid of clicks")


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.training.compiling import keep_compiled

    folder, prompts = output_folder(arguments.output), _prompts(arguments)
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size is {arguments.batch_size}", "Ask for at least 1")
    if arguments.everything and prompts:
        raise UserError("--everything is asked for, and a prompt too", "Leave one of them out")
    settings = generator(arguments)
    paths = expand(arguments.images)
    loaded = open_loaded(arguments)
    keep_compiled()
    semantic = "class_map" in loaded.task.answered_by
    if semantic and not prompts and not arguments.everything:
        written = _class_maps(loaded, paths, arguments.batch_size)
    else:
        loaded.check_prompts()
        if not prompts and not arguments.everything:
            raise UserError("There is no prompt", "Give --points, --box, --mask or --text, or --everything")
        written = _masks(loaded, paths, prompts, settings if arguments.everything else None)
    folder.mkdir(exist_ok=True)
    unreadable = []
    for i, (path, made) in enumerate(written):
        if isinstance(made, UserError):
            unreadable.append(made)
            continue
        name = f"{i:06d}_{path.stem}" if len(paths) > 1 else path.stem
        said, files = made
        for ending, data in files.items():
            (folder / f"{name}{ending}").write_bytes(data)
        print(printable(f"{path}: {said}"), file=sys.stdout)
    if unreadable:
        raise left_out(unreadable, len(paths))


# What is said of a photo, and its files by their ending.
Made = tuple[str, dict[str, bytes]]


def _masks(
    loaded: Loaded, paths: Sequence[Path], prompts: dict[str, Any], settings: MaskGenerator | None
) -> Iterator[tuple[Path, Made | UserError]]:
    """The masks of each photo, of which all are given the same prompts; or, with `settings`, of everything."""
    from vit_jax.data.decode import decode

    with closing(read_ahead(decode, paths, 2)) as photos:
        for path, photo in photos:
            if isinstance(photo, UserError):
                yield path, photo
            elif settings is not None:
                yield path, _everything(loaded, path, photo, settings)
            else:
                yield path, _answers(loaded, path, photo, prompts)


def _answers(loaded: Loaded, path: Path, photo: np.ndarray, prompts: dict[str, Any]) -> Made:
    import numpy as np

    from vit_jax.data import drawing, rle
    from vit_jax.evaluators.mask_generator import coco_box, mask_box

    found = loaded.prompted(photo)(**prompts)
    points = np.float64(prompts.get("points", [])).reshape(-1, 2)
    pictures, records = [], []
    for mask, iou, steady in zip(found.masks, found.iou.tolist(), found.stability.tolist(), strict=True):
        picture, times = drawing.enlarged(drawing.masks(photo, mask[None]))
        if "box" in prompts:
            picture = drawing.boxes(picture, np.float64([prompts["box"]]), np.zeros(1, int), times)
        picture = drawing.points(picture, points, times, np.array(prompts.get("labels", []), int))
        pictures.append(drawing.titled(picture, f"predicted IoU {iou:.2f}"))
        records.append({
            "segmentation": rle.encode(mask), "area": int(mask.sum()), "bbox": coco_box(mask_box(mask)),
            "predicted_iou": round(iou, 4), "stability_score": round(steady, 4),
        })  # fmt: skip
    said = ", ".join(f"{record['area']} pixels (IoU {record['predicted_iou']:.2f})" for record in records)
    return said, _files(path, photo, drawing.beside(pictures), list(found.masks), records)


def _everything(loaded: Loaded, path: Path, photo: np.ndarray, settings: MaskGenerator) -> Made:
    import numpy as np

    from vit_jax.data import drawing

    found = settings(loaded.prompted, photo)
    masks = [each.mask for each in found]
    picture = drawing.masks(photo, np.stack(masks) if masks else np.zeros((0, *photo.shape[:2]), bool))
    return f"{len(found)} masks", _files(path, photo, picture, masks, [each.record() for each in found])


def _files(
    path: Path, photo: np.ndarray, overlay: np.ndarray, masks: Sequence[np.ndarray], records: Sequence[dict[str, Any]]
) -> dict[str, bytes]:
    import cv2
    import numpy as np

    from vit_jax.data.drawing import image_png

    said = {"path": str(path), "height": photo.shape[0], "width": photo.shape[1], "masks": records}
    files = {"_overlay.png": image_png(overlay), ".json": (json.dumps(said, indent=1) + "\n").encode()}
    for k, mask in enumerate(masks):
        files[f"_mask_{k}.png"] = cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()
    return files


def _class_maps(loaded: Loaded, paths: Sequence[Path], batch_size: int) -> Iterator[tuple[Path, Made | UserError]]:
    """The class of each pixel of each photo; so many photos at a time, the last batch filled up, in one program."""
    import numpy as np

    from vit_jax.data.decode import decode

    def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        photo = decode(path)
        return photo, loaded.preprocess.to_uint8(photo)

    batch_size, batch = min(batch_size, len(paths)), []
    with closing(read_ahead(read, paths, 2 * batch_size)) as images:
        for i, pair in enumerate(images, 1):
            batch.append(pair)
            if len(batch) < batch_size and i < len(paths):
                continue
            seen = [image[1] for _, image in batch if not isinstance(image, UserError)]
            maps = iter(())
            if seen:
                pixels = np.stack(seen + seen[:1] * (batch_size - len(seen)))
                maps = iter(np.asarray(loaded.outputs({"image": pixels}, "class_map")["class_map"]))
            for path, image in batch:
                error = isinstance(image, UserError)
                yield path, image if error else _class_map(loaded, image[0], next(maps))
            batch = []


def _class_map(loaded: Loaded, photo: np.ndarray, classes: np.ndarray) -> Made:
    import cv2
    import numpy as np

    from vit_jax.data import drawing
    from vit_jax.data.drawing import image_png
    from vit_jax.data.palettes import colors_for

    shape, names = photo.shape[:2], loaded.task.label_names
    shown = loaded.preprocess.placement(shape).inverse(shape).dense(classes, -1)
    picture = drawing.class_map(shown, names, colors_for(names), known=shown >= 0, image=photo)
    shares = {names[k]: float((shown == k).mean()) for k in np.unique(shown[shown >= 0])}
    best = sorted(shares.items(), key=lambda item: -item[1])[:5]
    numbers = np.where(shown < 0, 255, shown).astype(np.uint8 if len(names) < 256 else np.uint16)
    files = {"_overlay.png": image_png(picture), "_classes.png": cv2.imencode(".png", numbers)[1].tobytes()}
    return ", ".join(f"{name} {share:.1%}" for name, share in best), files


def _prompts(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `Prompted` is asked, as it was typed."""
    prompts: dict[str, Any] = {}
    if arguments.points:
        points = [_point(text) for text in arguments.points]
        prompts = {"points": [(x, y) for x, y, _ in points], "labels": [label for *_, label in points]}
    if arguments.box is not None:
        box = _numbers(arguments.box.split(","))
        if len(box) != 4:
            raise UserError(f"--box is {arguments.box}", "Give left, top, right and bottom: --box 20,10,200,150")
        prompts["box"] = tuple(box)
    if arguments.mask is not None:
        from vit_jax.data.decode import decode

        prompts["mask"] = decode(arguments.mask).max(axis=2)
    if arguments.text is not None:
        prompts["text"] = arguments.text
    return prompts


def _point(text: str) -> tuple[float, float, int]:
    parts = text.split(",")
    numbers = _numbers(parts[:2])
    if len(numbers) != 2 or parts[2:] not in ([], ["-"], ["+"]):
        raise UserError(f"--points {text} is no point", "Write x,y and for one that is not on it x,y,-")
    return numbers[0], numbers[1], int(parts[2:] != ["-"])


def _numbers(parts: Sequence[str]) -> list[float]:
    """Those that are numbers."""
    found = []
    for part in parts:
        try:
            found.append(float(part))
        except ValueError:
            return []
    return found if all(map(math.isfinite, found)) else []
