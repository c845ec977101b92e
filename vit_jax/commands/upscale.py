"""A photo in a higher resolution.

examples:
  vit_jax upscale --checkpoint runs/sr photo.jpg --output big.png
  vit_jax upscale --checkpoint runs/sr photo.jpg --output big.png --compare   # big_compare.png: bicubic beside it
  vit_jax upscale --checkpoint runs/sr photo.jpg --output big.png --tile 0    # the whole photo at once

A large photo is enlarged in tiles, which fade into each other. Linear attention sees a tile instead of the photo: with
--tile 0 it sees all, for some kilobytes of memory for each pixel.
"""

from __future__ import annotations

import argparse
import sys

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.output import output_file
from vit_jax.errors import UserError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("image", metavar="IMAGE", help="the image file")
    parser.add_argument("--output", required=True, metavar="FILE", help="the .png file to write")
    parser.add_argument("--tile", type=int, default=512, metavar="N", help="side of a tile (default 512), 0 for none")
    parser.add_argument("--compare", action="store_true", help="also write bicubic and the result side by side")


def run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from vit_jax.checkpoints.upscaling import upscale
    from vit_jax.data.decode import decode
    from vit_jax.data.drawing import image_png
    from vit_jax.data.resample import resample
    from vit_jax.training.compiling import keep_compiled

    output = output_file(arguments.output, suffixes=(".png",))
    beside = output.with_name(f"{output.stem}_compare.png")
    if arguments.compare:
        output_file(str(beside), suffixes=(".png",))
    if arguments.tile < 0:
        raise UserError(f"--tile is {arguments.tile}", "Give pixels, or 0 for no tiles")
    photo = decode(arguments.image)
    loaded = open_loaded(arguments)
    keep_compiled()
    big = upscale(loaded.task, loaded.outputs, photo, arguments.tile or None)
    output.write_bytes(image_png(big))
    written = [output]
    if arguments.compare:
        bicubic = resample(photo, big.shape[:2], "bicubic")
        beside.write_bytes(image_png(np.concatenate([bicubic, big], axis=1)))
        written.append(beside)
    for path in written:
        print(printable(f"{path}: {big.shape[1]}x{big.shape[0]}"), file=sys.stdout)
