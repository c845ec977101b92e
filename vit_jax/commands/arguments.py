"""Arguments that several commands share."""

import argparse
from typing import Any

from vit_jax.training.config import load_config, override


def add_config(parser: argparse.ArgumentParser, required: bool, help_text: str) -> None:
    """`--config FILE[:ARGS]` and `--config.key=value`."""
    parser.add_argument("--config", required=required, metavar="FILE[:ARGS]", help=help_text)
    parser.add_argument("--override", action="append", default=[], help=argparse.SUPPRESS)
    # Only for --help: main rewrites these into --override before parsing.
    parser.add_argument(
        "--config.KEY",
        dest="_",
        metavar="VALUE",
        help="replace one value of the config, for example --config.steps=100",
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a workdir (its newest step) or a directory checkpoints/<step>",
    )


def read_config(arguments: argparse.Namespace, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The config that the arguments ask for: `--config`, or else `base`, with the overrides."""
    values = load_config(arguments.config) if arguments.config else base or {}
    return override(values, dict(o.split("=", 1) for o in arguments.override))
