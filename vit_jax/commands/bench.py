"""Measure speed on this machine.

examples:
  vit_jax bench data
  vit_jax bench data --json > data.json
  vit_jax bench data --kinds folder --images 1000 --rounds 9

`data` reads 500x375 JPEGs from a folder and from ArrayRecord, and the same pixels from an array in memory, through a
random crop of 224x224 pixels with flip into batches: once in a bare loop over the same library calls, and through the
whole pipeline with one thread and with two. The three take turns, so that a machine with other work slows all alike.
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from vit_jax.commands import bench_data

    modes = parser.add_subparsers(dest="mode", required=True, metavar="MODE")
    for name, module in (("data", bench_data),):
        mode = modes.add_parser(name, help=module.__doc__, description=module.__doc__, allow_abbrev=False)
        module.add_arguments(mode)
        mode.add_argument("--json", action="store_true", help="print JSON instead of a table")
        mode.set_defaults(module=module)


def run(arguments: argparse.Namespace) -> None:
    results = arguments.module.measure(arguments)
    print(json.dumps(results, indent=2) if arguments.json else arguments.module.show(results))
