"""What is on images, and where: boxes with a class and a score.

examples:
  vit_jax detect --checkpoint runs/detect photo.jpg                          # a line for each box
  vit_jax detect --checkpoint runs/detect photo.jpg --output found/          # and photo.png, detections.json in it
  vit_jax detect --checkpoint runs/detect photos/ --output found/ --threshold 0.7
  vit_jax detect --checkpoint runs/detect val2017/ --output found/ --threshold 0 --coco instances_val2017.json

Boxes are left, top, right and bottom in pixels of the image. A directory stands for all .jpg, .jpeg, .png and .webp
files below it. With --coco the boxes are also written as results of COCO, results.json, which `evaluate` can give to a
model of prompts (the evaluator 'instance'). Images that cannot be read are named at the end and make the exit status 2.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from typing import TYPE_CHECKING

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.image_files import expand, left_out, read_ahead
from vit_jax.commands.output import output_folder
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    import numpy as np

    from vit_jax.checkpoints.load import Loaded

_FILE, _RESULTS = "detections.json", "results.json"
_OUTPUTS = ("boxes", "scores", "classes")  # of a task that detects


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or directories")
    parser.add_argument("--output", metavar="DIR", help=f"write a picture of each image and {_FILE} into it")
    parser.add_argument(
        "--threshold", type=float, default=0.5, metavar="P", help="least score of what is shown (default 0.5)"
    )
    parser.add_argument(
        "--coco", metavar="FILE", help=f"the JSON that lists the images: write {_RESULTS} of COCO into DIR, too"
    )


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.commands.coco_results import CocoResults
    from vit_jax.data import drawing
    from vit_jax.data.decode import decode
    from vit_jax.data.drawing import image_png
    from vit_jax.training.compiling import keep_compiled

    if not 0 <= arguments.threshold <= 1:
        raise UserError(f"--threshold is {arguments.threshold}", "Give a share from 0 to 1")
    if arguments.coco is not None and arguments.output is None:
        raise UserError("--coco says in which form to write, and there is no --output", "Add --output DIR")
    folder = None if arguments.output is None else output_folder(arguments.output)
    results = None if arguments.coco is None else CocoResults(arguments.coco)
    paths = expand(arguments.images)
    loaded = open_loaded(arguments)
    if not set(_OUTPUTS) <= set(loaded.task.answered_by):
        raise UserError(f"{loaded.path} does not detect", "Use 'predict', or train one with the task detect")
    keep_compiled()
    unreadable: list[UserError] = []
    rows = []
    if folder is not None:
        folder.mkdir(exist_ok=True)
    with closing(read_ahead(decode, paths, 2)) as images:
        for i, (path, image) in enumerate(images):
            if isinstance(image, UserError):
                unreadable.append(image)
                continue
            found = detections(loaded, image, arguments.threshold)
            if results is not None:
                results.add(path, found)
            rows.append({"path": str(path), "width": image.shape[1], "height": image.shape[0], "detections": found})
            for one in found:
                box = " ".join(f"{side:.0f}" for side in one["box"])
                print(printable(f"{path}: {one['class']} {one['score']:.1%} at {box}"))
            if folder is not None:
                picture, times = drawing.enlarged(image)
                boxes = [one["box"] for one in found]
                kinds = [loaded.task.label_names.index(one["class"]) for one in found]
                name = f"{path.stem}.png" if len(paths) == 1 else f"{i:06d}_{path.stem}.png"
                (folder / name).write_bytes(image_png(drawing.boxes(picture, boxes, kinds, times)))
    if folder is not None:
        (folder / _FILE).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        if results is not None:
            (folder / _RESULTS).write_text(json.dumps(results.rows) + "\n", encoding="utf-8")
    if unreadable:
        raise left_out(unreadable, len(paths))


def detections(loaded: Loaded, image: np.ndarray, threshold: float) -> list[dict[str, object]]:
    """Of an image uint8 [H, W, 3] the boxes with at least this score, the surest first, in pixels of the image."""
    import numpy as np

    outputs = loaded.outputs({"image": loaded.preprocess.to_uint8(image)[None]}, _OUTPUTS)
    boxes, scores, classes = (np.asarray(outputs[name][0]) for name in _OUTPUTS)
    size = image.shape[:2]
    placed = loaded.preprocess.placement(size).inverse(size).boxes(boxes)
    labels = loaded.task.label_names
    return [
        {"class": labels[kind], "score": round(float(score), 4), "box": [round(float(x), 1) for x in box]}
        for box, score, kind in zip(placed, scores, classes, strict=True)
        if score >= threshold
    ]
