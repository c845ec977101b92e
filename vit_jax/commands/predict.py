"""Name what is in images: the most probable classes of a checkpoint.

examples:
  vit_jax predict --checkpoint runs/mine cat.jpg
  vit_jax predict --checkpoint runs/mine photos/ *.png --output predictions.jsonl

A directory stands for all .jpg, .jpeg, .png and .webp files below it. Images that cannot be read are named at the end
and make the exit status 2; the others are predicted all the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.checkpoints.load import Loaded

_BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or directories")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to name for each image (default 5)")
    parser.add_argument("--output", metavar="FILE", help="write one JSON object a line here instead of text")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    if arguments.top < 1:
        raise UserError(f"--top is {arguments.top}", "Ask for at least 1 class")
    paths = _expand(arguments.images)
    loaded = open_loaded(arguments)
    output = _open(arguments.output) if arguments.output else None
    unreadable: list[UserError] = []
    bar = tqdm(total=len(paths), unit="image", disable=output is None or not sys.stderr.isatty())
    size = min(_BATCH, len(paths))
    for start in range(0, len(paths), size):
        for path, ranked in predict_batch(loaded, paths[start : start + size], size, arguments.top, unreadable):
            if output:
                output.write(json.dumps({"path": str(path), "predictions": [list(pair) for pair in ranked]}) + "\n")
            else:
                print(f"{path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in ranked))
        bar.update(min(size, len(paths) - start))
    bar.close()
    if output:
        output.close()
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(paths)} images were left out. {unreadable[0].what}", unreadable[0].what_to_do
        )


def predict_batch(
    loaded: Loaded, paths: Sequence[Path], size: int, top: int, unreadable: list[UserError]
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """The `top` classes with probabilities for each readable image; errors of the others go into `unreadable`.

    Args:
        size: images that the model is given at a time; the same in every call, so that it compiles once.
    """
    import numpy as np

    from vit_jax.tasks.classify import probabilities

    readable, images = [], []
    for path in paths:
        try:
            images.append(loaded.preprocess(path))
            readable.append(path)
        except UserError as error:
            unreadable.append(error)
    if not images:
        return
    batch = np.stack(images + [images[0]] * (size - len(images)))
    objective = loaded.metadata["config"]["task"].get("objective", "softmax")
    rows = np.asarray(probabilities(loaded.logits(batch), objective))
    names = loaded.labels or [str(i) for i in range(rows.shape[1])]
    for path, row in zip(readable, rows, strict=False):
        order = np.argsort(-row, kind="stable")[:top]
        yield path, [(names[i], float(row[i])) for i in order]


def _expand(names: Sequence[str]) -> list[Path]:
    from vit_jax.data.sources.folder import SUFFIXES

    paths = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not found:
                raise UserError(f"There are no images below {path}", f"Looked for {', '.join(SUFFIXES)}")
            paths += found
        elif path.exists():
            paths.append(path)
        else:
            raise UserError(f"There is no image {path}", "Check the path")
    return paths


def _open(name: str) -> TextIO:
    path = Path(name)
    if not path.parent.is_dir():
        raise UserError(f"There is no directory {path.parent} for --output", "Make it first")
    return path.open("w", encoding="utf-8")
