"""Count what the images of a config's training source are made of, and print the lines of a config that say so.

examples:
  vit_jax prepare statistics --config own_images:root=photos
  vit_jax prepare statistics --config digits --images 500
  vit_jax prepare statistics --config own_images:root=scans --config.data.train.suffixes='[".tif"]'

Means and standard deviations by channel are those of all pixels as the files hold them, not resized, in float64;
TIFF and .npy files are read with all of their channels whatever the config says of its image. Also printed: sizes,
classes, the range of the numbers, and images that are there twice, pixel by pixel.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vit_jax.commands.arguments import add_config, read_config
from vit_jax.commands.table import table
from vit_jax.errors import UserError, printable

_AT_ONCE = 64  # images that are read ahead


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, True, "the config whose config.data.train is read")
    parser.add_argument("--images", type=int, metavar="N", help="so many, evenly out of all (all of them)")


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.training.config import run_config
    from vit_jax.training.inputs import build_inputs

    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images is {arguments.images}", "Look at 1 at least")
    inputs = build_inputs(run_config(read_config(arguments)).data)
    source = inputs.train_source()
    count = min(arguments.images or len(source), len(source))
    found, unreadable = counted(source, np.linspace(0, len(source) - 1, count).round().astype(int))
    print(printable_lines(found, source, unreadable))
    if unreadable:
        raise UserError(f"{len(unreadable)} images were left out. {unreadable[0].what}", unreadable[0].what_to_do)


def counted(source: Any, indices: np.ndarray) -> tuple[Any, list[UserError]]:
    """The statistics of some examples of a source, and what could not be read.

    Raises:
        UserError: images of several numbers of channels, and a source that gives none.
    """
    from tqdm import tqdm

    from vit_jax.data.decode import UnreadableImage
    from vit_jax.data.statistics import Statistics

    found: Statistics | None = None
    unreadable: list[UserError] = []
    with tqdm(total=len(indices), unit="image", disable=not sys.stderr.isatty()) as bar:
        for index, (image, label) in _read(source, indices):
            bar.update()
            if isinstance(image, UnreadableImage):
                unreadable.append(image)
                continue
            found = found or Statistics(image.shape[-1])
            if image.shape[-1] != len(found.mean):
                raise UserError(
                    f"{_named(source, index)} has {image.shape[-1]} channels, those before it {len(found.mean)}",
                    "Leave images of one kind in the source",
                )
            found.add(image, index, label)
    if found is None:
        raise unreadable[0] if unreadable else UserError("The source has no images", "Give another one")
    return found, unreadable


def _read(source: Any, indices: np.ndarray) -> Iterator[tuple[int, tuple[Any, int | None]]]:
    """Images and labels in order, read by two threads."""
    from vit_jax.data.decode import UnreadableImage

    def read(index: int) -> tuple[Any, int | None]:
        try:
            example = source[int(index)]
            if "image" not in example:
                raise UserError("The source gives no images", "Name one of images in config.data.train")
            image = _pixels(example["image"], _named(source, index))
        except UnreadableImage as error:
            return error, None
        label = example.get("label")
        return image, int(label) if isinstance(label, (int, np.integer)) else None

    with ThreadPoolExecutor(2) as threads:
        for start in range(0, len(indices), _AT_ONCE):
            some = indices[start : start + _AT_ONCE]
            yield from zip(map(int, some), threads.map(read, some), strict=True)


def _pixels(raw: Any, name: str) -> np.ndarray:
    from vit_jax.data.band_files import read_bands
    from vit_jax.data.decode import decode

    if isinstance(raw, bytes):
        return read_bands(raw, name) if raw[:4] in (b"II*\0", b"MM\0*", b"\x93NUM") else decode(raw, name)
    pixels = np.asarray(raw)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _named(source: Any, index: int) -> str:
    paths = getattr(source, "paths", None)
    return str(paths[index]) if paths is not None else f"Example {index}"


def printable_lines(found: Any, source: Any, unreadable: list[UserError]) -> str:
    """What a person reads: a table by channel, and the lines to paste."""
    (kind, _), *others = found.types.most_common()
    channels, names = len(found.mean), source.label_names
    rows = [
        [c, _figure(found.mean[c]), _figure(found.std[c]), _figure(found.low[c]), _figure(found.high[c])]
        for c in range(channels)
    ]
    lines = [f"{found.images:,} images of {kind}{' and other types' if others else ''}, {found.pixels:,} pixels", ""]
    lines += [table(["channel", "mean", "std", "lowest", "highest"], rows), ""]
    lines.append(f"Sizes (height x width): {_sizes(found)}")
    if found.classes:
        counts = sorted(found.classes.items(), key=lambda item: (item[1], item[0]))
        (few, least), (many, most) = counts[0], counts[-1]
        lines.append(
            f"Classes: {len(counts):,} of {len(names):,} occur, with {least:,} ({_class(names, few)}) to {most:,}"
            f" images ({_class(names, many)})"
        )
    share = found.duplicates / found.images
    if found.first_twins:
        a, b = (_named(source, index) for index in found.first_twins)
        lines.append(f"There twice: {found.duplicates:,} images ({share:.1%}), the first {b}, as {a}")
    else:
        lines.append("There twice: none")
    mean, std = (f"({', '.join(map(_figure, values))}{',' * (channels == 1)})" for values in (found.mean, found.std))
    lines += ["", "For a config:"]
    if channels == 3 and kind == "uint8":
        lines.append(f"config.data.preprocess = dict(mean={mean}, std={std})")
    else:
        kind = kind if kind in ("uint8", "uint16") and not others else "float32"
        lines.append(
            f'config.data.fields = dict(image=dict(name="bands", channels={channels}, dtype="{kind}", mean={mean},'
            f' std={std}), label=dict(name="classes"))'
        )
    if (found.std == 0).any():
        lines.append(f"remark: channel {int(np.flatnonzero(found.std == 0)[0])} is the same everywhere")
    return "\n".join(map(printable, "\n".join(lines).splitlines()))


def _figure(value: float) -> str:
    return f"{float(value):.7g}"


def _class(names: Any, label: int) -> str:
    return str(names[label]) if label < len(names) else str(label)


def _sizes(found: Any) -> str:
    if len(found.sizes) == 1:
        ((height, width),) = found.sizes
        return f"all {height}x{width}"
    heights, widths = (sorted(size[axis] for size in found.sizes.elements()) for axis in (0, 1))
    (usual, count) = found.sizes.most_common(1)[0]
    middle = found.images // 2
    return (
        f"{heights[0]}x{widths[0]} to {heights[-1]}x{widths[-1]}, median {heights[middle]}x{widths[middle]},"
        f" most often {usual[0]}x{usual[1]} ({count:,})"
    )
