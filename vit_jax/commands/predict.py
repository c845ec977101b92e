"""What a checkpoint says of images: the most probable classes, a text, or a picture, as its task has it.

examples:
  vit_jax predict --checkpoint runs/mine cat.jpg
  vit_jax predict --checkpoint runs/mine photos/ *.png --output predictions.jsonl
  vit_jax predict --checkpoint hf://timm/vit_base_patch16_224.augreg_in21k_ft_in1k photos/ --batch-size 128
  vit_jax predict --checkpoint runs/segment photos/ --output masks/    # a task that answers with pictures

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
from vit_jax.commands.output import is_json_lines, output_file, output_folder
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    from vit_jax.checkpoints.load import Loaded
    from vit_jax.tasks import Answer

_CLASSES, _TEXT = ("path", "predictions"), ("path", "text")  # keys of a line

_OUTPUT_HELP = "write one JSON object a line to FILE instead of text; answers that are pictures go into DIR/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or directories")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to name for each image (default 5)")
    parser.add_argument("--output", metavar="FILE|DIR", help=_OUTPUT_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that predict has not written, too")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (default 32)")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from vit_jax.training.compiling import keep_compiled

    for name in ("top", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}", "Ask for at least 1")
    output = _Output(arguments)
    paths = expand(arguments.images)
    loaded = open_loaded(arguments)
    keep_compiled()
    unreadable: list[UserError] = []
    # On stderr, so that text can go to a file or a pipe; left out where nobody would see it move.
    bar = tqdm(total=len(paths), unit="image", leave=False, disable=not sys.stderr.isatty())
    with closing(output), bar:
        for i, (path, answer) in enumerate(predict(loaded, paths, arguments.batch_size)):
            bar.update()
            if isinstance(answer, UserError):
                unreadable.append(answer)
            elif text := output.write(i, path, answer):
                bar.write(printable(f"{path}: {text}"), file=sys.stdout)
    if unreadable:
        raise left_out(unreadable, len(paths))


class _Output:
    """Where answers go: to the screen, or where `--output` says."""

    def __init__(self, arguments: argparse.Namespace):
        name, self._top = arguments.output, arguments.top
        self._file = self._folder = None
        if name is not None and name.endswith("/"):
            self._folder = output_folder(name)
        elif name is not None:
            self._file = output_file(name, ours=None if arguments.overwrite else _is_ours)
        self._lines = None

    def write(self, i: int, path: Path, answer: Answer) -> str:
        """Writes one answer, or returns it as the text for the screen."""
        from vit_jax.commands.figures import image_png
        from vit_jax.tasks import Ranked

        if isinstance(answer, Ranked):
            best = answer.best(self._top)
            row = dict(zip(_CLASSES, (str(path), [list(pair) for pair in best]), strict=True))
            return self._said(row, ", ".join(f"{name} {probability:.1%}" for name, probability in best))
        if isinstance(answer, str):
            return self._said(dict(zip(_TEXT, (str(path), answer), strict=True)), answer)
        if self._folder is None:
            raise UserError("This task answers with pictures", "Name a directory for them: --output DIR/")
        self._folder.mkdir(exist_ok=True)
        # Images of one name may come from several folders.
        (self._folder / f"{i:06d}_{path.stem}.png").write_bytes(image_png(answer))
        return ""

    def _said(self, row: dict[str, object], text: str) -> str:
        if self._folder is not None:
            raise UserError("This task does not answer with pictures", "Name a file: --output FILE")
        if self._file is None:
            return text
        if self._lines is None:
            self._lines = self._file.open("w", encoding="utf-8")
        self._lines.write(json.dumps(row) + "\n")
        return ""

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()


def predict(loaded: Loaded, paths: Sequence[Path], batch_size: int) -> Iterator[tuple[Path, Answer | UserError]]:
    """What the task answers to each image, or why it cannot be read, in the order of `paths`.

    The task is given `batch_size` images at a time, the last batch filled up, so that it compiles once. It works on
    one batch while the next is decoded and the one before is written; memory holds about three of them.
    """
    import jax
    import numpy as np

    task, batch_size = loaded.task, min(batch_size, len(paths))
    if loaded.preprocess is None:
        raise UserError(f"{loaded.path} does not take images, which predict reads", "Use evaluate, or vit_jax.load")

    def start(number: int, batch: Sequence[tuple[Path, object]]) -> dict[str, jax.Array] | None:
        """The outputs that answers are made of, on the device."""
        images = [image for _, image in batch if not isinstance(image, UserError)]
        if not images:
            return None
        # Bytes travel, and become floats there, of the same bits as on the host.
        pixels = np.stack(images + images[:1] * (batch_size - len(images)))
        # Samples are those of the image's place in the list, whatever the batch.
        places = [number * batch_size + i for i, (_, image) in enumerate(batch) if not isinstance(image, UserError)]
        index = np.array(places + [0] * (batch_size - len(places)), np.int32)
        return loaded.outputs({"image": pixels, "index": index}, task.answered_by)

    def answers(
        batch: Sequence[tuple[Path, object]], outputs: dict[str, jax.Array] | None
    ) -> Iterator[tuple[Path, Answer | UserError]]:
        rows = iter(task.answers(outputs, loaded.fields) if outputs is not None else ())
        for path, image in batch:
            yield path, image if isinstance(image, UserError) else next(rows)

    with closing(read_ahead(loaded.preprocess.to_uint8, paths, 2 * batch_size)) as images:
        before: tuple | None = None
        batch: list = []
        for i, pair in enumerate(images, 1):
            batch.append(pair)
            if len(batch) < batch_size and i < len(paths):
                continue
            # Starts the model and comes back, so that the host writes the batch before meanwhile.
            started = (batch, start((i - 1) // batch_size, batch))
            if before:
                yield from answers(*before)
            before, batch = started, []
        if before:
            yield from answers(*before)


def _is_ours(path: Path) -> bool:
    return is_json_lines(path, _CLASSES) or is_json_lines(path, _TEXT)
