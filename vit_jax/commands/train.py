"""Train a model as a config says; started again in its workdir, it continues.

examples:
  vit_jax train --config digits --workdir runs/digits
  vit_jax train --config digits:smoke --workdir runs/smoke --config.optim.learning_rate=1e-3
  vit_jax train --config my/config.py:variant=b/16 --workdir runs/mine
  vit_jax train --config my/config.py --workdir /shared/run --coordinator 10.0.0.2:8476 --num-processes 2 --process-id 0

The workdir receives config.json, metrics.jsonl, tensorboard/, checkpoints/<step> and, at the end, summary.json.
Started once on each host of a TPU slice, by srun, by mpirun or in a Kubernetes job, the processes find each other;
elsewhere the three last flags say where they are. SIGTERM and Ctrl-C save first. Exit status: 0 done, 2 something to
put right, 75 preempted (SIGTERM), or a data worker or another process of the run was lost: start the same command
again, 130 interrupted by Ctrl-C, another: also start again.

Compiled programs are kept in $XDG_CACHE_HOME/vit_jax/compiled (by default ~/.cache/vit_jax/compiled, the newest 2 GiB),
so that a run that is started again begins in seconds. JAX_COMPILATION_CACHE_DIR=DIR names another folder (a run of
several processes needs one that they share), JAX_ENABLE_COMPILATION_CACHE=false keeps none.
"""

import argparse

from vit_jax.commands.arguments import add_cluster, add_config, cluster, read_config
from vit_jax.commands.output import check_workdir
from vit_jax.commands.table import show_metrics
from vit_jax.training.config import shipped_configs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(shipped_configs())
    add_config(
        parser,
        True,
        f"a config file or the name of a shipped one ({known}), with its arguments after a colon; see vit_jax configs",
    )
    parser.add_argument("--workdir", metavar="DIR", help="where everything is written (must be given)")
    parser.add_argument(
        "--extend",
        action="store_true",
        help="the run in the workdir may become longer than it was: what is left of its schedules is stretched",
    )
    add_cluster(parser)


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.training.compiling import keep_compiled
    from vit_jax.training.cpu import keep_freed_memory
    from vit_jax.training.distributed import agreed, connected, is_lead
    from vit_jax.training.experiment import build_experiment
    from vit_jax.training.loop import train

    with connected(**cluster(arguments)):
        values = agreed(lambda: read_config(arguments))
        check_workdir(arguments.workdir)
        keep_compiled()
        keep_freed_memory()
        experiment = agreed(lambda: build_experiment(values))
        summary = train(experiment, arguments.workdir, extend=arguments.extend)
        if is_lead():
            print(show_metrics(summary))
