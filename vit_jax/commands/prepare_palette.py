"""Find the colours that stand for all others in images, as iGPT's 512.

examples:
  vit_jax prepare palette --config color_palette --output runs/palette
  vit_jax prepare palette --config color_palette:data=fashion,colors=16 --output runs/palette16
  vit_jax prepare palette --config color_palette --clusters preprocessor_config.json --output runs/palette

It is k-means over the pixels of training images as training sees them; or the clusters that transformers' files of iGPT
have beside them. What it writes is a checkpoint of a tokenizer: a generator reads it with
--config.init_from.tokenizer=runs/palette, and 'reconstruct' shows what it leaves of images.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vit_jax.commands.arguments import add_config, read_config
from vit_jax.commands.output import check_makeable
from vit_jax.errors import UserError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, True, "the images, and how many colours")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="training images to look at (1000)")
    parser.add_argument("--clusters", metavar="FILE", help="a JSON file of transformers with 'clusters' in -1..1")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the checkpoint goes")


def run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from vit_jax.checkpoints.json_file import read_json
    from vit_jax.training.palette import write_palette

    if arguments.images < 1:
        raise UserError(f"--images is {arguments.images}", "Look at 1 at least")
    check_makeable(arguments.output, "--output")
    if os.path.lexists(arguments.output) and not os.path.isdir(arguments.output):
        raise UserError(f"--output {arguments.output} is a file", "Name a directory")
    clusters = None
    if arguments.clusters is not None:
        rows = read_json(Path(arguments.clusters)).get("clusters")
        try:
            clusters = np.asarray(rows if isinstance(rows, list) else [], np.float32)
        except (ValueError, TypeError):  # rows of several lengths, or of something else than numbers
            clusters = np.zeros(0, np.float32)
        if clusters.ndim != 2 or clusters.shape[1] != 3 or not np.isfinite(clusters).all():
            raise UserError(f"{arguments.clusters} has no clusters of three numbers", "Give the file of an iGPT")
    found = write_palette(read_config(arguments), Path(arguments.output), images=arguments.images, clusters=clusters)
    print(printable(f"{arguments.output}: {len(found)} colours"))
