"""Images that a generator draws a second, and what one costs: tokens, passes, operations, cache.

examples:
  vit_jax bench sample --checkpoint runs/generator
  vit_jax bench sample --checkpoint runs/generator --batch-size 1 --guidance 1.5 --rounds 10 --json > one.json
  vit_jax bench sample --config generator.py --steps 8     # parameters of no meaning, which take as long

Each setting of the task is a flag, as in 'vit_jax sample'. Where the task can draw without its cache, that is timed
too; the two take turns. Tokens, passes and bytes of the cache are counted on paper by the task, operations in the
compiled program: matrix products and convolutions, each turn of a loop. Every batch is timed alone, from the call until
the images are there.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from vit_jax.commands.arguments import add_checkpoint, add_config, add_settings, open_loaded, read_config, read_settings
from vit_jax.commands.bench_model import seconds_of
from vit_jax.commands.table import table
from vit_jax.errors import UserError

_FLAGS = ("--checkpoint", "--config", "--batch-size", "--rounds", "--warmup", "--classes", "--prompt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser, required=False)
    add_config(parser, False, "instead of a checkpoint: the generator of this config, with parameters of no meaning")
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="of a config's data (default 1000)")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="what to draw; repeatable")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="images at a time (default 16)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="timed batches of each (default 3)")
    parser.add_argument("--warmup", type=int, default=1, metavar="N", help="untimed ones before (default 1)")
    add_settings(parser)


def results(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `--json` writes: the machine, the task, and of "with cache" and "without cache", or of "drawing" where the
    task knows no such choice, speeds and costs."""
    import jax
    import numpy as np

    from vit_jax.checkpoints.sampling import settings_of
    from vit_jax.training.sharding import batch_sharding, make_mesh, place, replicated

    for name in ("rounds", "batch_size", "classes"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}", "It must be at least 1")
    if (arguments.checkpoint is None) == (arguments.config is None):
        raise UserError("There is nothing to bench, or too much", "Give either --checkpoint or --config")
    task, variables = _generator(arguments)
    settings = settings_of(task, read_settings(arguments, task, _FLAGS), "a generator of images")
    mesh = make_mesh({})
    variables = jax.tree.map(lambda leaf: place(leaf, replicated(mesh)), variables)
    leaves = jax.tree.leaves(variables["params"])
    return {
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
        "jax": jax.__version__,
        "task": type(task).__module__.rpartition(".")[2],
        "parameters": int(sum(np.prod(leaf.shape, dtype=np.int64) for leaf in leaves)),
        "settings": dataclasses.asdict(settings),
        "rounds": arguments.rounds,
        **_measured(task, variables, settings, arguments, batch_sharding(mesh)),
    }


def _generator(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """A task and its variables."""
    if arguments.checkpoint is not None:
        loaded = open_loaded(arguments)
        return loaded.task, loaded.variables
    import jax
    import numpy as np

    from vit_jax.planning.rehearsal import rehearse_task

    task, shapes = rehearse_task(read_config(arguments), arguments.classes)
    return task, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def _measured(task: Any, variables: Any, settings: Any, arguments: argparse.Namespace, rows: Any) -> dict[str, Any]:
    import jax
    import numpy as np

    from vit_jax.checkpoints.sampling import asked
    from vit_jax.planning.sampler import compiled_sampler, counted_flops

    ways = {"drawing": settings}
    if isinstance(getattr(settings, "cache", None), bool):
        ways = {
            f"with{'' if cache else 'out'} cache": dataclasses.replace(settings, cache=cache) for cache in (True, False)
        }
    runs, found = {}, {}
    for name, chosen in ways.items():
        compiled, narrow, count, seconds = compiled_sampler(
            task, variables, chosen, arguments.batch_size, rows, arguments.prompt
        )
        numbers = np.arange(count, dtype=np.int32)
        conditions = asked(task, numbers, chosen, arguments.prompt)(numbers)
        batch = jax.device_put((conditions, numbers), rows)
        runs[name] = lambda compiled=compiled, narrow=narrow, batch=batch: compiled(narrow, *batch, np.uint32(0))
        memory, costs = compiled.memory_analysis(), task.sampling_costs(chosen)
        found[name] = {
            "compile_seconds": round(seconds, 2),
            "temporaries_bytes": memory.temp_size_in_bytes,
            "flops_per_image": counted_flops(compiled) * rows.mesh.size / count,
            **costs,
        }
    timed: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(arguments.rounds):
        for name, run in runs.items():
            timed[name] += seconds_of(run, 1, max(arguments.warmup, 0) if i == 0 else 0)
    for name, seconds in timed.items():
        speeds = [count / each for each in seconds]
        found[name] |= {
            "images_per_second": round(statistics.median(speeds), 3),
            "images_per_second_min": round(min(speeds), 3),
            "images_per_second_max": round(max(speeds), 3),
            "seconds_per_batch": round(statistics.median(seconds), 6),
        }
        if tokens := found[name].get("tokens"):
            found[name]["tokens_per_second"] = round(tokens * statistics.median(speeds), 1)
        if each := found[name].get("cache_bytes"):
            found[name]["cache_bytes_of_batch"] = count * each
    return {"batch_size": count, "timed": found}


def show(results: Mapping[str, Any]) -> str:
    """The table of the terminal."""
    header = [
        "",
        "images/s",
        "range",
        "tokens/s",
        "tokens",
        "passes",
        "GFLOP an image",
        "cache",
        "temporaries",
        "compile",
    ]
    rows = []
    for name, found in results["timed"].items():
        cache = found.get("cache_bytes_of_batch")
        rows.append([
            name, f"{found['images_per_second']:,.2f}",
            f"{found['images_per_second_min']:,.2f} to {found['images_per_second_max']:,.2f}",
            f"{found['tokens_per_second']:,.0f}" if "tokens_per_second" in found else "",
            *(f"{found[key]:,}" if key in found else "" for key in ("tokens", "passes")),
            f"{found['flops_per_image'] / 1e9:,.3f}",
            "" if cache is None else f"{cache / 2**20:,.2f} MiB",
            f"{found['temporaries_bytes'] / 2**20:,.1f} MiB", f"{found['compile_seconds']:.1f} s",
        ])  # fmt: skip
    # What no row says is left out.
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    header, rows = [header[i] for i in kept], [[row[i] for i in kept] for row in rows]
    what = (
        f"{results['task']}, {results['parameters']:,} parameters, batch {results['batch_size']}, "
        f"{results['devices']} {results['device']}, median of {results['rounds']}"
    )
    several = len(results["timed"]) > 1
    said = {name: value for name, value in results["settings"].items() if not (several and name == "cache")}
    settings = ", ".join(f"{name} {value}" for name, value in said.items())
    lines = [what, settings, "", table(header, rows)]
    if several:
        speeds = [found["images_per_second"] for found in results["timed"].values()]
        lines += ["", f"With its cache {speeds[0] / speeds[1]:.2f} times as fast as without."]
    return "\n".join(lines)
