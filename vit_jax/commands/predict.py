"""Name what is in images: the most probable classes of a checkpoint.

examples:
  vit_jax predict --checkpoint runs/mine cat.jpg
  vit_jax predict --checkpoint runs/mine photos/ *.png --output predictions.jsonl
  vit_jax predict --checkpoint hf://timm/vit_base_patch16_224.augreg_in21k_ft_in1k photos/ --batch-size 128

A directory stands for all .jpg, .jpeg, .png and .webp files below it. Images that cannot be read are named at the end
and make the exit status 2; the others are predicted all the same. Files are decoded in threads while the model works on
the batch before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.image_files import expand, left_out, read_ahead
from vit_jax.commands.output import is_json_lines, output_file
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    from vit_jax.checkpoints.load import Loaded

Ranked = list[tuple[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or directories")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to name for each image (default 5)")
    parser.add_argument("--output", metavar="FILE", help="write one JSON object a line here instead of text")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that predict has not written, too")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (default 32)")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    for name in ("top", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}", "Ask for at least 1")
    target = None
    if arguments.output is not None:
        target = output_file(arguments.output, ours=None if arguments.overwrite else _is_ours)
    paths = expand(arguments.images)
    loaded = open_loaded(arguments)
    output = target.open("w", encoding="utf-8") if target else None
    unreadable: list[UserError] = []
    try:
        # On stderr, so that text can go to a file or a pipe; left out where nobody would see it move.
        with tqdm(total=len(paths), unit="image", leave=False, disable=not sys.stderr.isatty()) as bar:
            for path, answer in predict(loaded, paths, arguments.batch_size, arguments.top):
                bar.update()
                if isinstance(answer, UserError):
                    unreadable.append(answer)
                elif output:
                    row = {"path": str(path), "predictions": [list(pair) for pair in answer]}
                    output.write(json.dumps(row) + "\n")
                else:
                    text = ", ".join(f"{name} {probability:.1%}" for name, probability in answer)
                    bar.write(printable(f"{path}: {text}"), file=sys.stdout)
    finally:
        if output:
            output.close()
    if unreadable:
        raise left_out(unreadable, len(paths))


def predict(
    loaded: Loaded, paths: Sequence[Path], batch_size: int, top: int
) -> Iterator[tuple[Path, Ranked | UserError]]:
    """The `top` classes with probabilities for each image, or why it cannot be read, in the order of `paths`.

    The model is given `batch_size` images at a time, the last batch filled up, so that it compiles once. It works on
    one batch while the next is decoded and the one before is written; memory holds about three of them.
    """
    import jax
    import numpy as np

    from vit_jax.nn.classification_loss import probabilities

    batch_size = min(batch_size, len(paths))
    objective = (loaded.metadata.get("config") or {}).get("task", {}).get("objective", "softmax")

    def start(batch: Sequence[tuple[Path, object]]) -> list[jax.Array]:
        """Probabilities and indices of the top classes, on the device: the host would sort thousands for each image."""
        images = [image for _, image in batch if not isinstance(image, UserError)]
        if not images:
            return []
        # Bytes travel, and become floats there, of the same bits as on the host.
        pixels = jax.device_put(np.stack(images + images[:1] * (batch_size - len(images))))
        rows = probabilities(loaded.logits(loaded.preprocess.normalize(pixels)), objective)
        return jax.lax.top_k(rows, min(top, rows.shape[1]))

    def answers(
        batch: Sequence[tuple[Path, object]], best: list[jax.Array]
    ) -> Iterator[tuple[Path, Ranked | UserError]]:
        rows = zip(*(np.asarray(x).tolist() for x in best), strict=True)
        for path, image in batch:
            if isinstance(image, UserError):
                yield path, image
                continue
            yield path, [(loaded.labels[i] if loaded.labels else str(i), p) for p, i in zip(*next(rows), strict=True)]

    with closing(read_ahead(loaded.preprocess.to_uint8, paths, 2 * batch_size)) as images:
        before: tuple | None = None
        batch: list = []
        for i, pair in enumerate(images, 1):
            batch.append(pair)
            if len(batch) < batch_size and i < len(paths):
                continue
            # Starts the model and comes back, so that the host writes the batch before meanwhile.
            started = (batch, start(batch))
            if before:
                yield from answers(*before)
            before, batch = started, []
        if before:
            yield from answers(*before)


def _is_ours(path: Path) -> bool:
    return is_json_lines(path, ("path", "predictions"))
