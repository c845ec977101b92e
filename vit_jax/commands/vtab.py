"""Fine-tune a checkpoint on VTAB-1k's 19 tasks, and print its score: a table by task and the means of the groups.

examples:
  vit_jax vtab --checkpoint runs/mine --data vtab-1k --workdir runs/vtab
  vit_jax vtab --checkpoint runs/mine --data vtab-1k --workdir runs/vtab --rates 0.003 0.01 0.03
  vit_jax vtab --checkpoint runs/mine --workdir runs/vtab --tasks cifar dtd svhn --config vtab:res=224,steps=500

With several --rates the one of each task is chosen on 200 images after training on 800; then the model is trained on
all 1,000 and measured once on the test split. The same command goes on where it was stopped; runs that are done are not
run again. --data holds a folder with lists for each task, or data sets that TFDS has prepared; see docs/vtab.md.
"""

import argparse
from typing import Any

from vit_jax.commands.arguments import add_config
from vit_jax.commands.output import check_workdir
from vit_jax.commands.table import table
from vit_jax.data.vtab import GROUPS, TASKS
from vit_jax.errors import UserError
from vit_jax.training.config import load_config, override


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH", help="what is fine-tuned: a workdir or a step of it"
    )
    parser.add_argument("--data", metavar="DIR", help="lists of the tasks, or TFDS's data sets (TFDS's own place)")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the runs and vtab.json go")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", default=list(TASKS), help="some of them (all 19)")
    parser.add_argument(
        "--rates", nargs="+", type=float, metavar="RATE", default=[0.01], help="learning rates to choose from (0.01)"
    )
    add_config(parser, False, "the config of a run, with the arguments init, data, task, lr and final (vtab)")


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.training.compiling import keep_compiled
    from vit_jax.training.cpu import keep_freed_memory
    from vit_jax.training.vtab import run_vtab

    check_workdir(arguments.workdir)
    name, _, own = (arguments.config or "vtab").partition(":")
    overrides = dict(pair.split("=", 1) for pair in arguments.override)

    def values(given: Any) -> dict[str, Any]:
        parts = [*filter(None, [own]), f"init={arguments.checkpoint}", f"task={given['task']}", f"lr={given['lr']:g}"]
        parts += [f"data={arguments.data}"] if arguments.data else []
        return override(load_config(f"{name}:{','.join(parts + ['final'] * given['final'])}"), overrides)

    if "," in arguments.checkpoint + (arguments.data or ""):
        raise UserError("A config's arguments are divided by commas, and a path has one", "Rename it, or use a link")
    if arguments.print_config:
        import json

        print(json.dumps(values({"task": arguments.tasks[0], "lr": arguments.rates[0], "final": True}), indent=2))
        return
    keep_compiled()
    keep_freed_memory()
    print(shown(run_vtab(values, arguments.workdir, arguments.tasks, arguments.rates)))


def shown(results: dict[str, Any]) -> str:
    """A table by task, in the order of the groups, and their means."""
    rows = []
    for group in GROUPS:
        for task, found in results["tasks"].items():
            if found["group"] == group:
                rows.append([task, group, f"{100 * found['accuracy']:.2f}", f"{found['rate']:g}"])
    rows += [
        [f"mean of {g}" if g != "mean" else "VTAB-1k", "", f"{100 * m:.2f}", ""] for g, m in results["groups"].items()
    ]
    return table(["task", "group", "top-1 %", "learning rate"], rows)
