"""Masks of everything in a folder of photos, as a file of annotations that the source 'coco' reads.

examples:
  vit_jax annotate photos/ --checkpoint runs/sam --output annotations.json
  vit_jax annotate photos/ --checkpoint runs/sam --output annotations.json --least-iou 0.7 --thumbnails seen

The file is COCO's: each mask with its run lengths, box and area, of the one category "object", and beside them what the
model thinks of it. With --thumbnails a small picture of each photo with its masks is written, for whoever looks through
them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import closing
from pathlib import Path

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.image_files import expand, left_out, read_ahead
from vit_jax.commands.output import output_file, output_folder
from vit_jax.commands.segment import add_thresholds, generator
from vit_jax.errors import UserError, printable

_SIDE = 256  # pixels of a thumbnail's longer side
_KEYS = ("images", "annotations", "categories")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or directories")
    parser.add_argument("--output", required=True, metavar="FILE", help="the .json file to write")
    parser.add_argument("--thumbnails", metavar="DIR", help="also write a small picture of each photo's masks")
    add_thresholds(parser)


def run(arguments: argparse.Namespace) -> None:
    import cv2
    import numpy as np
    from tqdm import tqdm

    from vit_jax.data import drawing
    from vit_jax.data.decode import decode
    from vit_jax.data.drawing import image_png
    from vit_jax.training.compiling import keep_compiled

    output = output_file(arguments.output, suffixes=(".json",))
    thumbnails = None if arguments.thumbnails is None else output_folder(arguments.thumbnails, "--thumbnails")
    settings, paths = generator(arguments), expand(arguments.images)
    loaded = open_loaded(arguments)
    loaded.check_prompts()
    keep_compiled()
    images, annotations, unreadable = [], [], []
    bar = tqdm(total=len(paths), unit="photo", leave=False, disable=not sys.stderr.isatty())
    with closing(read_ahead(decode, paths, 2)) as photos, bar:
        for path, photo in photos:
            bar.update()
            if isinstance(photo, UserError):
                unreadable.append(photo)
                continue
            found = settings(loaded.prompted, photo)
            height, width = photo.shape[:2]
            name = os.path.relpath(path, output.parent)
            images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
            for each in found:
                own = {"id": len(annotations) + 1, "image_id": len(images), "category_id": 1, "iscrowd": 0}
                annotations.append(own | each.record())
            bar.write(printable(f"{path}: {len(found)} masks"), file=sys.stdout)
            if thumbnails is not None:
                thumbnails.mkdir(exist_ok=True)
                share = min(1.0, _SIDE / max(height, width))
                small = cv2.resize(photo, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
                masks = np.stack([each.mask for each in found]) if found else np.zeros((0, height, width), bool)
                picture = image_png(drawing.masks(small, masks))
                (thumbnails / f"{len(images):06d}_{path.stem}.png").write_bytes(picture)
    category = {"id": 1, "name": "object"}
    everything = dict(zip(_KEYS, (images, annotations, [category]), strict=True))
    partial = Path(f"{output}.partial")
    partial.write_text(json.dumps(everything) + "\n", encoding="utf-8")
    partial.replace(output)
    if unreadable:
        raise left_out(unreadable, len(paths))
