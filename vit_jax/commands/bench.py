"""Measure the speed of a model, of the data pipeline, or of kinds of attention, on this machine.

examples:
  vit_jax bench --variant S/16 --batch-size 16
  vit_jax bench --variant B/16 --batch-size 256 --config.model.dtype=bfloat16 --json > b16.json
  vit_jax bench --config digits --rounds 20
  vit_jax bench --config bench_b16:chips=1 --profile traces/b16
  vit_jax bench data
  vit_jax bench data --kinds folder --images 1000 --rounds 9 --json > data.json
  vit_jax bench attention --output board.html
  vit_jax bench sample --checkpoint runs/generator --steps 8

Without a mode: images per second of the train and the inference step (of data without images, examples and tokens), MFU
in bfloat16 where the device's peak is known, the most memory that a device held, and how long compiling took. Batches
are random. A train step is all that training does on the device: normalising, forward, backward, optimizer. Every step
is timed alone, from the call until the device is done. The config's own data, where it is there, is read for its speed
alone.

`data` reads 500x375 JPEGs from a folder and from ArrayRecord, and the same pixels from an array in memory, through a
random crop of 224x224 pixels with flip into batches: once in a bare loop over the same library calls, and through the
whole pipeline with one thread and with two. The three take turns, so that a machine with other work slows all alike.

`attention` is a board of what kinds of attention, or whole models, cost at several sizes, and how that grows.

`sample` draws images with a generator, with its cache and without.
"""

import argparse
import json

from vit_jax.commands import bench_attention, bench_data, bench_model, bench_sample

_MODES = {"data": bench_data, "attention": bench_attention, "sample": bench_sample}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    bench_model.add_arguments(parser)
    modes = parser.add_subparsers(dest="mode", metavar="MODE")
    every = [parser]
    for name, module in _MODES.items():
        # The formatter of the other commands keeps examples as they are written.
        about = {"help": module.__doc__.splitlines()[0], "description": module.__doc__}
        every.append(modes.add_parser(name, **about, allow_abbrev=False, formatter_class=parser.formatter_class))
        module.add_arguments(every[-1])
    for each in every:
        each.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> None:
    module = _MODES.get(arguments.mode, bench_model)
    results = module.results(arguments)
    print(json.dumps(results, indent=2) if arguments.json else module.show(results))
