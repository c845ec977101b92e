"""List the configs that come with vit_jax, with the arguments that each takes.

examples:
  vit_jax configs
  vit_jax configs finetune
  vit_jax configs my/config.py
  vit_jax train --config finetune --help

Arguments stand after a colon, separated by commas: --config finetune:init=runs/mine,data=photos,res=384. A value with
a comma in it is put in quotes, which the shell must not take: --config 'finetune:init=runs/mine,data="a, b"'. Any value
of the config itself is replaced with --config.KEY=VALUE; 'vit_jax train --config ... --print-config' shows them all.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from vit_jax.training.config import shipped_configs
from vit_jax.training.config_file import config_path, read_header


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this one whole")


def run(arguments: argparse.Namespace) -> None:
    if arguments.name is not None:
        print(help_text(arguments.name))
        return
    found = shipped_configs()
    width = max(map(len, found))
    for name, path in found.items():
        header, taken = read_header(path)
        print(f"{name:{width}}  {header.splitlines()[0]}")
        print(f"{'':{width}}  :{_defaults(taken)}\n")
    print("'vit_jax configs NAME' shows one whole: the paper, the expected figure, what the arguments mean.")


def help_text(spec: str) -> str:
    """The header of a config file and its arguments with their defaults; the file is read and not run.

    Args:
        spec: as `--config` takes it; what stands after the colon does not matter.
    """
    header, taken = read_header(config_path(spec.partition(":")[0]))
    return f"{header}\n\ndefaults: {_defaults(taken)}" if taken else header or "This config says nothing of itself."


def _defaults(taken: Mapping[str, Any]) -> str:
    # As they would be typed: empty texts as nothing.
    return ",".join(f"{name}={value}" for name, value in taken.items())
