"""Measure a checkpoint on the evaluation data that it names, or on other data.

examples:
  vit_jax evaluate --checkpoint runs/digits
  vit_jax evaluate --checkpoint runs/digits/checkpoints/400 --output scores.json
  vit_jax evaluate --checkpoint runs/digits --output scores/    # also tables by class and the confusion matrix
  vit_jax evaluate --checkpoint runs/mine --config.data.eval.name=folder --config.data.eval.root=photos \\
      --config.data.eval.split=test

Model, labels and preprocessing come from the checkpoint; which evaluators run comes from its config, or from --config.
"""

import argparse
import json
import os
from collections.abc import Callable

from vit_jax.commands.arguments import (
    add_checkpoint,
    add_cluster,
    add_config,
    cluster,
    open_loaded,
    read_config,
)
from vit_jax.commands.output import output_file, output_folder
from vit_jax.commands.table import show_metrics
from vit_jax.errors import UserError, printable

_OUTPUT_HELP = "write the metrics as JSON too; into DIR/ beside the tables and pictures of the evaluators"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_config(parser, False, "take data and evaluators from this config instead of the checkpoint's")
    parser.add_argument("--cache", metavar="DIR", help="keep frozen features there, and use those that are there")
    parser.add_argument("--output", metavar="FILE|DIR", help=_OUTPUT_HELP)
    parser.add_argument(
        "--recalibrate",
        type=int,
        metavar="N",
        help="estimate the running statistics of batch normalisation anew on N training images first, 100 at a time",
    )
    add_cluster(parser)


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.training.compiling import keep_compiled
    from vit_jax.training.distributed import agreed, check_same, connected, is_lead
    from vit_jax.training.evaluation import evaluate_loaded

    output = None if arguments.output is None else _Output(arguments.output)
    with connected(**cluster(arguments), preemptible=False):
        loaded = agreed(lambda: open_loaded(arguments))
        if "data" not in loaded.metadata["config"] and not arguments.config:
            raise UserError(f"{loaded.path} names no data to evaluate on", "Give --config")
        values = agreed(lambda: read_config(arguments, loaded.metadata["config"]))
        check_same({"config": values})
        keep_compiled()
        keep = output.keep if output and is_lead() else None
        metrics = evaluate_loaded(loaded, values, arguments.cache, keep, arguments.recalibrate)
        if not is_lead():
            return
        print(f"{printable(loaded.path)}\n\n{show_metrics(metrics)}")
        if output:
            output.write({"checkpoint": str(loaded.path), **metrics})


class _Output:
    """Where `--output` says: a file for the metrics, or a directory for them and all files that evaluators offer."""

    def __init__(self, name: str):
        self._is_directory = os.path.isdir(name) or name.endswith("/")
        self._path = output_folder(name) if self._is_directory else output_file(name)
        self._files: dict[str, bytes] = {}

    def keep(self, name: str, make: Callable[[], bytes]) -> None:
        if self._is_directory:
            self._files[name] = make()

    def write(self, metrics: dict[str, object]) -> None:
        text = json.dumps(metrics, indent=2) + "\n"
        if not self._is_directory:
            self._path.write_text(text)
            return
        self._path.mkdir(exist_ok=True)
        for name, data in {"metrics.json": text.encode(), **self._files}.items():
            (self._path / name).write_bytes(data)
