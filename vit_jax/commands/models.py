"""Published checkpoints that vit_jax reads, with their addresses, sizes and reported figures.

examples:
  vit_jax models
  vit_jax models swin
  vit_jax models 'vit:B/16'
  vit_jax models '*dinov2*'

A pattern with * and ? is compared with the whole name of the model, the address, or the family of files; a word without
them is looked for in these. Each address is what --checkpoint and vit_jax.load take; one that ends in .pth or .pt is a
pickle, which docs/weights.md says how to convert. In Python, vit_jax.create_model makes models with new parameters.
"""

import argparse

from vit_jax.checkpoints.zoo import as_markdown, find, zoo
from vit_jax.commands.table import table
from vit_jax.errors import UserError
from vit_jax.spelling import closest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="of a model, an address or a family")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/models.md, with the sources")


def run(arguments: argparse.Namespace) -> None:
    if arguments.markdown:
        print(as_markdown(), end="")
        return
    found = find(arguments.pattern)
    if not found:
        close = closest(arguments.pattern, {row.model for row in zoo()} | {row.family for row in zoo()})
        advice = f"Did you mean '{close}'?" if close else "'vit_jax models' shows all"
        raise UserError(f"No published checkpoint is like {arguments.pattern!r}", advice)
    rows = [[row.model, row.millions, row.size, row.figure, row.address] for row in found]
    print(table(["model", "parameters", "pixels", "figure", "address"], rows))
