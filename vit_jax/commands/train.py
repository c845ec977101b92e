"""Train a model as a config says; started again in its workdir, it continues.

examples:
  vit_jax train --config digits --workdir runs/digits
  vit_jax train --config digits:smoke --workdir runs/smoke --config.optim.learning_rate=1e-3
  vit_jax train --config my/config.py:variant=b/16 --workdir runs/mine

The workdir receives config.json, metrics.jsonl, tensorboard/, checkpoints/<step> and, at the end, summary.json.
Ctrl-C saves first. Exit status: 0 done, 2 something to put right, 130 interrupted.
"""

import argparse

from vit_jax.commands.arguments import add_config, read_config
from vit_jax.commands.table import show_metrics
from vit_jax.training.config import shipped_configs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(shipped_configs())
    add_config(parser, True, f"a config file or the name of a shipped one ({known}), with its arguments after a colon")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where everything is written")


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.training.experiment import build_experiment
    from vit_jax.training.loop import train

    summary = train(build_experiment(read_config(arguments)), arguments.workdir)
    print(show_metrics(summary))
