"""Images as the tokens or latents of a tokenizer, written once for all runs that learn to generate them.

examples:
  vit_jax encode --checkpoint runs/tokenizer --output tokens/           # the training images of its own config
  vit_jax encode --checkpoint runs/tokenizer --config configs/maskgit_imagenet.py --mirrored --output tokens/
  vit_jax encode --checkpoint vae.safetensors --config mine.py --what moments --output latents/

What is encoded is config.data.train, prepared as evaluation does. A run reads it with data.train.name=encoded,
data.train.directory=DIR and a field of the kind 'encoded', and refuses a tokenizer that it was not encoded with. The
same command, called again, goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys

from vit_jax.commands.arguments import add_checkpoint, add_config, open_loaded, read_config
from vit_jax.commands.output import output_folder
from vit_jax.errors import UserError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_config(parser, False, "take the training images from this config instead of the checkpoint's")
    parser.add_argument("--output", required=True, metavar="DIR", help="the directory to write, or to go on with")
    parser.add_argument(
        "--what", metavar="KIND", help="indices, moments or latents (by default the first of them that there is)"
    )
    parser.add_argument("--mirrored", action="store_true", help="also encode the mirror image of each, for flips")
    parser.add_argument("--shard", type=int, default=10_000, metavar="N", help="images of a file (default 10000)")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from vit_jax.training.compiling import keep_compiled
    from vit_jax.training.encoding import encode

    directory = output_folder(arguments.output)
    if arguments.shard < 1:
        raise UserError(f"--shard is {arguments.shard}", "Give a number of images from 1 up")
    loaded = open_loaded(arguments)
    if "data" not in loaded.metadata["config"] and not arguments.config:
        raise UserError(f"{loaded.path} names no data to encode", "Give --config")
    values = read_config(arguments, loaded.metadata["config"])
    keep_compiled()
    with tqdm(unit="image", disable=None, file=sys.stderr) as bar:

        def progress(done: int, examples: int) -> None:
            bar.total = examples
            bar.update(done - bar.n)

        header = encode(
            loaded, values, directory, kind=arguments.what, mirrored=arguments.mirrored, shard=arguments.shard,
            progress=progress,
        )  # fmt: skip
    shape = "x".join(map(str, header.shape))
    views = f", {len(header.views)} views each" if len(header.views) > 1 else ""
    print(printable(f"{directory}: {header.examples:,} images as {header.kind} {shape}{views}"))
