"""Measure a checkpoint on the evaluation data that it names, or on other data.

examples:
  vit_jax evaluate --checkpoint runs/digits
  vit_jax evaluate --checkpoint runs/digits/checkpoints/400 --output scores.json
  vit_jax evaluate --checkpoint runs/mine --config.data.eval.name=folder --config.data.eval.root=photos \\
      --config.data.eval.split=test

Model, labels and preprocessing come from the checkpoint; which evaluators run comes from its config, or from --config.
"""

import argparse
import json
from pathlib import Path

from vit_jax.commands.arguments import (
    add_checkpoint,
    add_cluster,
    add_config,
    cluster,
    open_loaded,
    read_config,
)
from vit_jax.commands.table import show_metrics
from vit_jax.errors import UserError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_config(parser, False, "take data and evaluators from this config instead of the checkpoint's")
    parser.add_argument("--cache", metavar="DIR", help="keep frozen features there, and use those that are there")
    parser.add_argument("--output", metavar="FILE", help="write the metrics as JSON too")
    add_cluster(parser)


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.training.distributed import agreed, connected, is_lead
    from vit_jax.training.evaluation import evaluate_loaded

    output = Path(arguments.output) if arguments.output else None
    with connected(**cluster(arguments), preemptible=False):
        loaded = agreed(lambda: open_loaded(arguments))
        if "data" not in loaded.metadata["config"] and not arguments.config:
            raise UserError(f"{loaded.path} names no data to evaluate on", "Give --config")
        values = agreed(lambda: read_config(arguments, loaded.metadata["config"]))
        metrics = evaluate_loaded(loaded, values, arguments.cache)
        if not is_lead():
            return
        if output and not output.parent.is_dir():
            raise UserError(f"There is no directory {output.parent} for --output", "Make it first")
        if output:
            output.write_text(json.dumps({"checkpoint": str(loaded.path), **metrics}, indent=2) + "\n")
        print(f"{printable(loaded.path)}\n\n{show_metrics(metrics)}")
