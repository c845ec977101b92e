"""Train a config once for each combination of some values, and put the runs in order.

examples:
  vit_jax sweep --config digits:smoke --grid optim.learning_rate=1e-3,3e-3 seed=0,1 --workdir runs/rates
  vit_jax sweep --config my/config.py --grid model.variant=ti/16,s/16 --metric val/loss --workdir runs/sizes
  vit_jax sweep --config my/config.py --grid optim.learning_rate=1e-3,3e-3,1e-2 seed=0,1 --develop 0.1 --workdir runs/ft
  vit_jax sweep --config my/config.py --grid seed=0,1,2,3 --workdir runs/seeds --devices-per-run 1
  vit_jax sweep --config my/config.py --grid seed=0,1,2,3 --workdir runs/seeds --slurm sweep.sbatch

Each run has a workdir of its own below --workdir, named by its values: 'learning_rate=0.001,seed=0'. The same command
skips runs that are done and goes on with those that were interrupted; further values are further runs. A run that
fails, because its loss is not finite, say, is named and does not stop the others; it is tried again the next time.

Runs that differ only in seed, learning rate, schedule, weight decay or decay of a moving average share one compiled
program, others compile their own; programs are kept as 'vit_jax train --help' says.

At the end: a table with the best values first (seeds of the same values share a row: mean and standard deviation),
sweep.csv with a row for each run, and sweep.png. 'vit_jax report DIR' shows the curves.

--develop SHARE is the protocol of the ViT paper (appendix B.1.1): all values are tried with that share of the training
set held out and measured on it, in DIR/develop; then the best are trained on the whole training set, once for each
seed, in DIR/best, and measured on the config's own evaluation data once, at the end.

Exit status: 0 done, 2 something to put right or a run failed, 75 preempted, 130 interrupted by Ctrl-C: the runs that
were going are saved, and the same command goes on.
"""

import argparse
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from vit_jax.commands.arguments import add_config, read_config
from vit_jax.commands.output import check_workdir, output_file
from vit_jax.errors import UserError, printable
from vit_jax.training.grid import Point, axes_of, points_of
from vit_jax.training.run_files import finished


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, True, "a config file or the name of a shipped one, with its arguments after a colon")
    parser.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        required=True,
        metavar="KEY=V,V,...",
        help="keys of the config and the values of each",
    )
    parser.add_argument("--workdir", metavar="DIR", help="where the workdirs of the runs are made (must be given)")
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="what is best, such as val/accuracy (default: config.checkpoint.best, or the first)",
    )
    parser.add_argument("--mode", choices=("max", "min"), help="whether it is best high or low (default: by its name)")
    parser.add_argument(
        "--develop",
        type=float,
        metavar="SHARE",
        help="choose on a held-out share of the training set, then train on all",
    )
    parser.add_argument(
        "--devices-per-run", type=int, metavar="N", help="run side by side, each on N devices of its own"
    )
    parser.add_argument("--only", metavar="I/N", help="run the I-th of N parts of the grid, from 1, and show no table")
    parser.add_argument("--slurm", metavar="FILE", help="write a script for sbatch, which runs the grid as an array")
    parser.add_argument("--retrain", action="store_true", help=argparse.SUPPRESS)  # of --develop: the part after it


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.commands import sweep_parts

    base, axes = read_config(arguments), axes_of(arguments.grid)
    check_workdir(arguments.workdir)
    part = sweep_parts.part_of(arguments.only) if arguments.only else (1, 1)
    root = epath.Path(arguments.workdir)
    points = points_of(base if arguments.develop is None else developed(base, arguments.develop), axes)
    if arguments.slurm is not None:
        script = output_file(arguments.slurm, "--slurm")
        script.write_text(sweep_parts.array_script(_words(arguments), len(points)))
        print(f"Script: {script}, for sbatch")
        return
    if arguments.devices_per_run is not None and arguments.only:
        raise UserError("--only and --devices-per-run each choose runs", "Give one of them")

    def carry_out(folder: epath.Path, points: Sequence[Point], *words: str) -> list[str]:
        """Names of the runs that failed."""
        if arguments.devices_per_run is None:
            return run_points(folder, points[part[0] - 1 :: part[1]])
        if all(finished(folder / point.name, point.config) for point in points):
            return []
        sweep_parts.run_beside([*_words(arguments), *words], len(points), arguments.devices_per_run)
        return [point.name for point in points if not finished(folder / point.name, point.config)]

    folder = root if arguments.develop is None else root / "develop"
    failed = [] if arguments.retrain else carry_out(folder, points)
    if not arguments.only or arguments.retrain:
        from vit_jax.commands.sweep_table import ranked, show

        metric, mode = _order(arguments, base)
        best = ranked(folder, points, metric, mode)
        if not arguments.retrain:
            show(folder, best)
        if arguments.develop is not None:
            final = points_of(retrained(base), {key: _unique(p.texts[key] for p in best.points) for key in axes})
            failed += [f"best/{name}" for name in carry_out(root / "best", final, "--retrain")]
            if not arguments.only:
                show(root / "best", ranked(root / "best", final, best.metric, mode))
    if failed:
        raise UserError(
            f"{len(failed)} run{'s' if len(failed) > 1 else ''} failed: {'; '.join(failed)}",
            "What ended each is said above; the same command tries again",
        )


def run_points(folder: epath.Path, points: Sequence[Point]) -> list[str]:
    """Trains those that are not done, one after the other in this process, and returns the names of those that fail.

    Raises:
        UserError: what the first run finds wrong before it begins: a key that nobody knows would end all of them.
    """
    from vit_jax.training.compiling import keep_compiled
    from vit_jax.training.cpu import keep_freed_memory

    keep_compiled()
    keep_freed_memory()
    failed, begun = [], False
    for number, point in enumerate(points, 1):
        workdir = folder / point.name
        if finished(workdir, point.config):
            print(f"Run {number} of {len(points)}, {printable(point.name)}, is done", file=sys.stderr)
            begun = True
            continue
        print(f"Run {number} of {len(points)}: {printable(point.name)}", file=sys.stderr)
        try:
            _train(workdir, point.config)
        except UserError as error:
            if not begun and not (workdir / "config.json").exists():
                raise
            print(f"vit_jax: {printable(point.name)} failed: {' '.join(str(error).split())}", file=sys.stderr)
            failed.append(point.name)
        begun = True
        gc.collect()  # the arrays of a run are in circles of references
    return failed


def _train(workdir: epath.Path, config: Mapping[str, Any]) -> None:
    import jax

    from vit_jax.training.experiment import build_experiment
    from vit_jax.training.loop import train

    try:
        train(build_experiment(config), workdir)
    except jax.errors.JaxRuntimeError as error:
        first = str(error).partition("\n")[0]
        if "RESOURCE_EXHAUSTED" not in first:
            raise
        raise UserError(
            f"The device has too little memory: {first}", "Set config.microbatch or a smaller batch"
        ) from error


def developed(base: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The config with a share of its training set in place of its evaluation data.

    Raises:
        UserError: there is no training source, or no evaluator that looks at the evaluation data alone.
    """
    if not 0 < share < 1:
        raise UserError(f"--develop is {share}", "Give a share between 0 and 1, such as 0.1")
    data = base.get("data") or {}
    if not isinstance(data.get("train"), Mapping):
        raise UserError("--develop holds out a share of config.data.train, which is no section", "Name a source there")
    parts = {
        key: {"name": "held_out", "source": data["train"], "share": share, "part": part}
        for key, part in (("train", "rest"), ("eval", "held"))
    }
    # An evaluator with a source of its own could look at what is to be measured once.
    evals = {
        name: section
        for name, section in (base.get("evals") or {}).items()
        if isinstance(section, Mapping) and not any(isinstance(v, Mapping) and "name" in v for v in section.values())
    }
    if not evals:
        raise UserError(
            "--develop needs an evaluator of config.data.eval, and each of config.evals has data of its own",
            "Add one, for example --config.evals.val.name=classification",
        )
    return {**base, "data": {**data, **parts}, "evals": evals}


def retrained(base: Mapping[str, Any]) -> dict[str, Any]:
    """The config on all of its training set, measured once: after the last step."""
    evals = {
        name: {key: value for key, value in section.items() if key != "every"}
        if isinstance(section, Mapping)
        else section
        for name, section in (base.get("evals") or {}).items()
    }
    # What waits for the metric that is not measured on the way.
    waiting = ("best", "best_mode", "stop_after", "min_delta")
    checkpoint = {key: value for key, value in (base.get("checkpoint") or {}).items() if key not in waiting}
    return {**base, "evals": evals, "eval_every": None, "checkpoint": checkpoint}


def _order(arguments: argparse.Namespace, base: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """By which metric runs are put in order, and whether the highest or the lowest is first, as far as it was said."""
    if arguments.metric is not None:
        return arguments.metric, arguments.mode
    checkpoint = base.get("checkpoint") or {}
    best = checkpoint.get("best")
    return best, arguments.mode or (checkpoint.get("best_mode", "max") if best else None)


def _unique(values: Any) -> list[str]:
    return list(dict.fromkeys(values))


def _words(arguments: argparse.Namespace) -> list[str]:
    """The command again, without what says how it is divided."""
    words = ["--config", arguments.config, *(f"--config.{pair}" for pair in arguments.override)]
    words += ["--grid", *arguments.grid, "--workdir", os.fspath(arguments.workdir)]
    for flag in ("metric", "mode", "develop"):
        if (value := getattr(arguments, flag)) is not None:
            words += [f"--{flag}", str(value)]
    return words
