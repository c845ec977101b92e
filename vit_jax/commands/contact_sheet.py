"""Draw what a config's pipeline does to its training images: each as it is, and as training sees it.

examples:
  vit_jax contact-sheet --config digits --output sheet.png
  vit_jax contact-sheet --config digits --output sheet.png --images 4 --views 12 --config.data.transform.rotate=90

Each row is one image of the config's order: left as evaluation would see it, then as many random views (or pairs of
views, where the loss compares two of an image). Look at it before a long run: at labels, crops and colours.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.commands.arguments import add_config, read_config
from vit_jax.commands.output import output_file
from vit_jax.errors import UserError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, True, "the config whose data section is drawn")
    parser.add_argument("--output", required=True, metavar="FILE", help="the PNG to write")
    parser.add_argument("--images", type=int, default=10, metavar="N", help="rows (default 10)")
    parser.add_argument("--views", type=int, default=8, metavar="N", help="random views or pairs of each (default 8)")


def run(arguments: argparse.Namespace) -> None:
    for name in ("images", "views"):
        if not 1 <= getattr(arguments, name) <= 100:
            raise UserError(f"--{name} is {getattr(arguments, name)}", "Give 1 to 100")
    path = output_file(arguments.output, suffixes=(".png",))
    data, together = sheet(read_config(arguments), arguments.images, arguments.views)
    path.write_bytes(data)
    kind = "views" if together == 1 else f"times the {together} views"
    seen = f"{arguments.views} {kind} of each as in training"
    print(f"{printable(path)}: {arguments.images} images, left as in evaluation, then {seen}")


def sheet(values: Mapping[str, Any], images: int, views: int) -> tuple[bytes, int]:
    """The picture as PNG, and how many views of an image the loss compares.

    Args:
        values: the plain config.
        images: rows.
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
    pipeline = inputs.train_pipeline(source, images * views, config.seed)
    batch, rows, together = pipeline.batch(0), [], 1
    for start in range(0, len(batch["image"]), views):
        example = pipeline.example(start)
        seen = batch["image"][start : start + views]
        together = 1 if seen.ndim == 4 else seen.shape[1]
        seen = seen.reshape(-1, *seen.shape[-3:])
        rows.append(
            (
                printable(_label(example["label"], source.label_names)),
                inputs.preprocessing.to_uint8(example["image"]),
                seen,
            )
        )
    return figures.contact_sheet(rows, together), together


def _label(label: object, names: tuple[str, ...]) -> str:
    if isinstance(label, int):
        return names[label] if names else str(label)
    return ", ".join(name for name, present in zip(names, label, strict=True) if present) or "none"
