"""Pretrain, probe and fine-tune a small ViT on embedded digits, and write a report.

example:
  vit_jax demo --workdir runs/demo

It tells the story of the ViT paper in about three minutes on two CPU cores: pretraining on the digits 0 to 6 at 16x16
pixels; a few-shot linear probe on 7 to 9, which it never saw, beside the same probe on raw pixels; fine-tuning on all
ten at 32x32 from the same checkpoint with interpolated position embeddings, beside the same budget from scratch.
The workdir receives the three runs, report.html and summary.json. Started again, it continues where it was.
"""

import argparse
import time
from pathlib import Path

from vit_jax.commands.output import check_workdir
from vit_jax.commands.table import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where everything is written")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all three runs (default 0)")
    parser.add_argument("--smoke", action="store_true", help="a run of a few steps that only shows that all works")


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from vit_jax.commands.demo_report import result_rows, summarise, write_report
    from vit_jax.training.compiling import keep_compiled
    from vit_jax.training.config import load_config
    from vit_jax.training.experiment import build_experiment
    from vit_jax.training.loop import train
    from vit_jax.training.workdir import write_json

    check_workdir(arguments.workdir)
    began, workdir = time.perf_counter(), Path(arguments.workdir)
    keep_compiled()  # fine-tuning and training from scratch are the same program
    smoke = "smoke" if arguments.smoke else ""
    # Part of the fine-tuning run's config, which must be the same when the demo is continued from another folder.
    pretrained = str((workdir / "pretrain").absolute())
    specs = {
        "pretrain": ("Pretraining on the digits 0 to 6 at 16x16 pixels", "digits", {}),
        "finetune": ("Fine-tuning on all ten digits at 32x32 pixels", "digits_finetune", {"init_from": pretrained}),
        "scratch": ("The same from scratch", "digits_finetune", {}),
    }
    results = {}
    for name, (title, config, changes) in specs.items():
        print(f"\n{title}", flush=True)
        values = load_config(f"{config}:{smoke}") | {"seed": arguments.seed} | changes
        results[name] = train(build_experiment(values), workdir / name)

    summary = summarise(results) | {"seconds": round(time.perf_counter() - began, 1)}
    write_json(epath.Path(workdir) / "summary.json", summary)
    rows = result_rows(results)
    write_report(workdir, rows, results, summary["seconds"])
    print(f"\n{table(*rows)}\n\n{summary['seconds']:.0f} seconds. Report: {workdir / 'report.html'}")
