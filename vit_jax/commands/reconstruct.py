"""What an image tokenizer gives back of images, beside them, and how near it is.

examples:
  vit_jax reconstruct --checkpoint runs/vqvae photo.jpg --output pair.png
  vit_jax reconstruct --checkpoint runs/vqvae photos/ --output pairs.png      # pairs in one picture, the original first
  vit_jax reconstruct --checkpoint runs/vqvae photos/ --output pairs/         # a picture of each pair
  vit_jax reconstruct --checkpoint runs/vqvae photos/ --image-size 512        # the table alone

The table has decibels of the mean squared error (PSNR) of each image in bytes, as the model sees it, and of a tokenizer
with a codebook how many different tokens the image is made of. A directory stands for all .jpg, .jpeg, .png and .webp
files below it. Images that cannot be read are named at the end and make the exit status 2.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.image_files import expand, left_out, read_ahead
from vit_jax.commands.output import output_file, output_folder
from vit_jax.commands.table import table
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    import numpy as np

    from vit_jax.checkpoints.load import Loaded

_PAIRS = 64  # in one picture
_ACROSS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or directories")
    parser.add_argument(
        "--output", metavar="FILE|DIR", help=f"a .png of the first {_PAIRS} pairs, or DIR/ with a .png of each"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (default 32)")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from vit_jax.data.drawing import beside, image_png
    from vit_jax.evaluators.image_quality import psnr
    from vit_jax.training.compiling import keep_compiled

    if arguments.batch_size < 1:
        raise UserError(f"--batch-size is {arguments.batch_size}", "Ask for at least 1")
    folder, file = _output(arguments.output)
    paths = expand(arguments.images)
    loaded = open_loaded(arguments)
    if "reconstruction" not in loaded.task.answered_by or loaded.preprocess is None:
        raise UserError(
            f"{loaded.path} gives no images back", "Use a checkpoint of an image tokenizer, such as a vqvae"
        )
    keep_compiled()
    if folder is not None:
        folder.mkdir(exist_ok=True)
    unreadable: list[UserError] = []
    rows, kept = [], []
    bar = tqdm(total=len(paths), unit="image", leave=False, disable=not sys.stderr.isatty())
    with bar:
        for i, (path, found) in enumerate(reconstructions(loaded, paths, arguments.batch_size)):
            bar.update()
            if isinstance(found, UserError):
                unreadable.append(found)
                continue
            pair = found["original"], found["reconstruction"]
            row = {"image": printable(path), "psnr": psnr(*pair)}
            rows.append(row | ({"tokens": len(set(found["indices"].ravel().tolist()))} if "indices" in found else {}))
            if folder is not None:
                (folder / f"{i:06d}_{path.stem}.png").write_bytes(image_png(beside(pair)))
            elif file is not None and len(kept) < _PAIRS:
                kept.append(pair)
    if kept:
        file.write_bytes(_picture(kept))
    if rows:
        print(_table(rows))
    if unreadable:
        raise left_out(unreadable, len(paths))


def reconstructions(
    loaded: Loaded, paths: Sequence[Path], batch_size: int
) -> Iterator[tuple[Path, dict[str, np.ndarray] | UserError]]:
    """Of each image "original" and "reconstruction" uint8 [H, W, 3], and "indices" of a model that has some; or why it
    could not be read."""
    import numpy as np

    discrete = getattr(loaded.model, "vocab_size", None) is not None
    names = ("original", "reconstruction", *(("indices",) if discrete else ()))
    batch_size = min(batch_size, len(paths))
    with closing(read_ahead(loaded.preprocess.to_uint8, paths, 2 * batch_size)) as images:
        while batch := list(itertools.islice(images, batch_size)):
            readable = [image for _, image in batch if not isinstance(image, UserError)]
            rows: Iterator[dict[str, np.ndarray]] = iter(())
            if readable:
                filled = np.stack(readable + readable[:1] * (batch_size - len(readable)))
                found = {name: np.asarray(x) for name, x in loaded.outputs({"image": filled}, names).items()}
                for name in names[:2]:
                    found[name] = np.round(255 * found[name].clip(0, 1)).astype(np.uint8)
                rows = ({name: x[i] for name, x in found.items()} for i in range(len(readable)))
            for path, image in batch:
                yield path, image if isinstance(image, UserError) else next(rows)


def _output(name: str | None) -> tuple[Path | None, Path | None]:
    """The directory or the file that is written."""
    if name is None:
        return None, None
    if name.endswith("/") or os.path.isdir(name):
        return output_folder(name), None
    return None, output_file(name, suffixes=(".png",))


def _picture(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes:
    import numpy as np

    from vit_jax.data.drawing import image_png, mosaic

    whole = np.stack([image for pair in pairs for image in pair])
    return image_png(mosaic(whole, 2 * min(_ACROSS, len(pairs))))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    tokens = ["tokens"] if "tokens" in rows[0] else []
    lines = [[row["image"], _decibels(row["psnr"]), *(str(row[name]) for name in tokens)] for row in rows]
    finite = [row["psnr"] for row in rows if math.isfinite(row["psnr"])]
    mean = _decibels(statistics.fmean(finite) if finite else math.inf)
    lines.append([f"mean of {len(rows)}", mean, *(f"{statistics.fmean(row[n] for row in rows):.1f}" for n in tokens)])
    return table(["image", "PSNR", *tokens], lines)


def _decibels(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "exact"
