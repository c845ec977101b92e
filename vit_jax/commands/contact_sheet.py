"""Draw what a config's pipeline does to its training images: each as it is, and as training sees it.

examples:
  vit_jax contact-sheet --config digits --output sheet.png
  vit_jax contact-sheet --config digits --output sheet.png --images 4 --views 12 --config.data.transform.rotate=90
  vit_jax contact-sheet --config brown_gpt --output sheet.txt

Each row is one image of the config's order: left as evaluation would see it, then as many random views (or pairs of
views, where the loss compares two of an image). Look at it before a long run: at labels, crops and colours. Of other
fields, labels of pixels, points and boxes are drawn on their image, with the names of their colours below where the
source has names, and texts written beside it. Of data without images
the texts alone are written, back from their tokens as training gets them.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.commands.arguments import add_config, read_config
from vit_jax.commands.output import output_file
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:  # not for every command: images and their transforms take 0.7 s to import
    from vit_jax.data.drawing import Color
    from vit_jax.data.fields import Fields
    from vit_jax.data.geometry import Image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, True, "the config whose data section is drawn")
    parser.add_argument("--output", required=True, metavar="FILE", help="the PNG to write, or .txt of texts")
    parser.add_argument("--images", type=int, default=10, metavar="N", help="rows, or texts (default 10)")
    parser.add_argument("--views", type=int, default=8, metavar="N", help="random views or pairs of each (default 8)")


def run(arguments: argparse.Namespace) -> None:
    for name in ("images", "views"):
        if not 1 <= getattr(arguments, name) <= 100:
            raise UserError(f"--{name} is {getattr(arguments, name)}", "Give 1 to 100")
    path = output_file(arguments.output, suffixes=(".png", ".txt"))
    if path.suffix.lower() == ".txt":
        said, count = texts(read_config(arguments), arguments.images)
        path.write_text(said, encoding="utf-8")
        print(f"{printable(path)}: {_counted(count, 'example')} as in training")
        return
    data, count, together = sheet(read_config(arguments), arguments.images, arguments.views)
    path.write_bytes(data)
    kind = "views" if together == 1 else f"times the {together} views"
    seen = f"{arguments.views} {kind} of each as in training"
    print(f"{printable(path)}: {_counted(count, 'image')}, left as in evaluation, then {seen}")


def sheet(values: Mapping[str, Any], images: int, views: int) -> tuple[bytes, int, int]:
    """The picture as PNG, how many images are on it, and how many views of an image the loss compares.

    Args:
        values: the plain config.
        images: rows, at most: each image has one.
        views: random views, or groups of views that are compared, of each.

    Raises:
        UserError: when the config is wrong or its data is not here.
    """
    from vit_jax.commands import figures
    from vit_jax.training.config import run_config
    from vit_jax.training.inputs import build_inputs

    config = run_config(values)
    # The views of one image are the rows that repeated augmentation makes of it.
    inputs = dataclasses.replace(build_inputs(config.data), repeats=views)
    source = inputs.train_source()
    images = min(images, len(source))
    pipeline = inputs.train_pipeline(source, images * views, config.seed)
    kinds = inputs.kinds(source.label_names)
    if "image" not in kinds:
        raise UserError("There are no images to draw, this data has none", "Write its texts: --output sheet.txt")
    batch, rows, together = pipeline.batch(0), [], 1
    legend: dict[str, Color] = {}
    for start in range(0, len(batch["image"]), views):
        example = kinds.batched(kinds.evaluated(pipeline.example(start)))
        legend |= _legend(kinds, example)
        seen = batch["image"][start : start + views]
        together = 1 if seen.ndim == 4 else seen.shape[1]
        if together == 1:
            examples = [{key: value[start + k] for key, value in batch.items()} for k in range(views)]
            seen = np.stack([_drawn(kinds, each) for each in examples])
            for each in examples:
                legend |= _legend(kinds, each)
        rows.append(
            (
                printable(_caption(kinds, example, source.label_names)),
                _drawn(kinds, example),
                seen.reshape(-1, *seen.shape[-3:]),
            )
        )
    return figures.contact_sheet(rows, together, legend), images, together


def texts(values: Mapping[str, Any], count: int) -> tuple[str, int]:
    """What the first examples of training say, back from their tokens, for each a line of every field in words; and how
    many examples these are.

    Args:
        values: the plain config.
        count: of them at most.

    Raises:
        UserError: when the config is wrong, or its data has images or is not here.
    """
    from vit_jax.training.config import run_config
    from vit_jax.training.inputs import build_inputs

    config = run_config(values)
    inputs = dataclasses.replace(build_inputs(config.data), num_workers=0, repeats=1)
    source = inputs.train_source()
    kinds = inputs.kinds(source.label_names)
    if "image" in kinds:
        raise UserError("This data has images, to which a text does not do justice", "Draw them: --output sheet.png")
    count = min(count, len(source))
    batch, lines = inputs.train_pipeline(source, count, config.seed).batch(0), []
    for k in range(count):
        row = {key: value[k] for key, value in batch.items()}
        said = {name: kind.caption(name, row) for name, kind in kinds.items() if name != "label"}
        if "label" in row:
            said["label"] = _label(row["label"], source.label_names)
        lines += [f"{k} {name}: {printable(' '.join(text.split()))}" for name, text in said.items() if text]
    return "\n".join(lines) + "\n", count


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _drawn(kinds: "Fields", row: Mapping[str, Any]) -> "Image":
    """The image of one example with all that lies on it."""
    from vit_jax.data.drawing import enlarged

    if not kinds.lie_on_image:
        return row["image"]
    image, times = enlarged(row["image"])
    for name in kinds.lie_on_image:
        image = kinds[name].draw(image, name, row, times)
    return image


def _legend(kinds: "Fields", row: Mapping[str, Any]) -> dict[str, "Color"]:
    """What the colours mean in which one example is drawn."""
    return {said: tint for name in kinds.lie_on_image for said, tint in kinds[name].legend(name, row).items()}


def _caption(kinds: "Fields", row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Label and texts of one example."""
    texts = [_label(row["label"], names)] if "label" in row else []
    texts += [kind.caption(name, row) for name, kind in kinds.items() if name != "label"]
    return ": ".join(text for text in texts if text)


def _label(label: Any, names: tuple[str, ...]) -> str:
    if not np.ndim(label):
        return names[label] if names else str(label)
    return ", ".join(name for name, present in zip(names, label, strict=True) if present) or "none"
