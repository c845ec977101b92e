"""What a checkpoint says of images or texts: the most probable classes, a text, or a picture, as its task has it.

examples:
  vit_jax predict --checkpoint runs/mine cat.jpg
  vit_jax predict --checkpoint runs/mine photos/ *.png --output predictions.jsonl
  vit_jax predict --checkpoint hf://timm/vit_base_patch16_224.augreg_in21k_ft_in1k photos/ --batch-size 128
  vit_jax predict --checkpoint runs/segment photos/ --output masks/    # a task that answers with pictures
  vit_jax predict --checkpoint runs/clip photos/ --labels "a cat, a dog"     # a model of images and texts
  vit_jax predict --checkpoint runs/clip photos/ --labels names.json --templates imagenet
  vit_jax predict --checkpoint runs/genre --text "It was late, and nobody came."
  vit_jax predict --checkpoint runs/mnli --texts pairs.txt --output predictions.jsonl   # tabs between two texts

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

from vit_jax.commands.arguments import add_checkpoint, add_labels, check_labels, open_loaded, with_labels
from vit_jax.commands.image_files import expand, in_batches, left_out
from vit_jax.commands.output import is_json_lines, output_file, output_folder
from vit_jax.commands.text_files import lines_of
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    from vit_jax.checkpoints.load import Loaded
    from vit_jax.tasks import Answer

# Keys of a line: of images, and of texts.
_CLASSES, _TEXT = ("path", "predictions"), ("path", "text")
_TEXT_CLASSES, _TEXT_TEXT = ("text", "predictions"), ("text", "answer")
_LINES = (_CLASSES, _TEXT, _TEXT_CLASSES, _TEXT_TEXT)

_OUTPUT_HELP = "write one JSON object a line to FILE instead of text; answers that are pictures go into DIR/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files or directories")
    parser.add_argument("--text", action="append", default=[], metavar="TEXT", help="a text instead; repeatable")
    parser.add_argument("--texts", metavar="FILE", help="a file with a text a line, or two with a tab between")
    add_labels(parser)
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to name for each image (default 5)")
    parser.add_argument("--output", metavar="FILE|DIR", help=_OUTPUT_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that predict has not written, too")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="at a time (default 32)")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from vit_jax.training.compiling import keep_compiled

    for name in ("top", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}", "Ask for at least 1")
    output = _Output(arguments)
    texts = arguments.text + (lines_of(Path(arguments.texts), "text") if arguments.texts is not None else [])
    if bool(texts) == bool(arguments.images):
        raise UserError(
            "There are both images and texts" if texts else "There is nothing to predict",
            "Give image files or directories, or --text TEXT or --texts FILE",
        )
    check_labels(arguments, bool(texts))
    paths = expand(arguments.images) if not texts else []
    loaded = with_labels(open_loaded(arguments), arguments)
    keep_compiled()
    if texts:
        with closing(output):
            for i, (text, answer) in enumerate(predict_texts(loaded, texts, arguments.batch_size)):
                if shown := output.write(i, text, answer):
                    print(printable(f"{text}: {shown}"))
        return
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

    def write(self, i: int, asked: Path | str, answer: Answer) -> str:
        """Writes one answer to an image file or a text, or returns it as the text for the screen."""
        from vit_jax.data.drawing import image_png
        from vit_jax.tasks import Ranked

        if isinstance(answer, Ranked):
            best = answer.best(self._top)
            keys = _TEXT_CLASSES if isinstance(asked, str) else _CLASSES
            row = dict(zip(keys, (str(asked), [list(pair) for pair in best]), strict=True))
            return self._said(row, ", ".join(f"{name} {probability:.1%}" for name, probability in best))
        if isinstance(answer, str):
            keys = _TEXT_TEXT if isinstance(asked, str) else _TEXT
            return self._said(dict(zip(keys, (str(asked), answer), strict=True)), answer)
        if self._folder is None:
            raise UserError("This task answers with pictures", "Name a directory for them: --output DIR/")
        self._folder.mkdir(exist_ok=True)
        # Images of one name may come from several folders.
        name = "text" if isinstance(asked, str) else asked.stem
        (self._folder / f"{i:06d}_{name}.png").write_bytes(image_png(answer))
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

    See `vit_jax.commands.image_files.in_batches`; samples are those of the image's place in the list.
    """
    task = loaded.task
    batches = in_batches(loaded, paths, batch_size, lambda batch: loaded.outputs(batch, task.answered_by))
    with closing(batches):
        for batch, outputs in batches:
            rows = iter(task.answers(outputs, loaded.fields) if outputs is not None else ())
            for path, image in batch:
                yield path, image if isinstance(image, UserError) else next(rows)


def predict_texts(loaded: Loaded, texts: Sequence[str], batch_size: int) -> Iterator[tuple[str, Answer]]:
    """What the task answers to each text, in their order; the last batch is filled up, so that it compiles once.

    Raises:
        UserError: for a task whose data has no field "text", and for a text that the field cannot read.
    """
    import numpy as np

    field = loaded.fields.get("text")
    if field is None or not loaded.task.answered_by:
        raise UserError(
            f"{loaded.path} does not answer texts",
            "Use 'generate' for texts that go on, or give it what it was trained on",
        )
    rows = []
    for i, text in enumerate(texts, 1):
        raw = tuple(text.split("\t")) if "\t" in text else text
        rows.append(field.batched("text", field.read(raw, f"Text {i}", None)))
    size = min(batch_size, len(rows))
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        filled = some + some[:1] * (size - len(some))
        batch = {key: np.stack([np.asarray(row[key]) for row in filled]) for key in some[0]}
        batch["index"] = np.arange(first, first + size, dtype=np.int32)
        outputs = loaded.outputs(batch, loaded.task.answered_by)
        yield from zip(texts[first : first + len(some)], loaded.task.answers(outputs, loaded.fields), strict=False)


def _is_ours(path: Path) -> bool:
    return any(is_json_lines(path, keys) for keys in _LINES)
