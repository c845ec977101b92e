"""What drawing samples takes: operations, memory and time of a compiled program, for devices that need not be there."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vit_jax.checkpoints.narrowing import narrowed
from vit_jax.checkpoints.sampling import drawing, settings_of, shapes_of
from vit_jax.nn.platform import computing_on
from vit_jax.planning.plan import costs_of
from vit_jax.planning.rehearsal import rehearse_task
from vit_jax.planning.topology import Topology
from vit_jax.planning.traffic import by_kind, kernels
from vit_jax.tasks import Task, Variables
from vit_jax.training.sharding import batch_sharding, make_mesh, replicated

# What `plan_sampler` gives, of a batch on each chip but for what is named otherwise.
KEYS = (
    "settings", "batch_size", "arguments_bytes", "temporaries_bytes", "peak_bytes", "hbm_bytes", "flops",
    "flops_per_image", "counted_bytes", "kernels", "compile_seconds", "batch_seconds", "images_per_second", "fits",
)  # fmt: skip


def plan_sampler(
    values: Mapping[str, Any],
    classes: int,
    target: Topology,
    settings: Mapping[str, Any],
    batch_size: int,
    prompts: Sequence[str] = (),
) -> dict[str, Any]:
    """What a batch of samples of a config takes on each chip; no weights and no data are read.

    Operations are those of matrix products and convolutions in the compiled program, each turn of a loop counted. The
    time is a roofline: kernels one after the other, each as long as the busier of compute and memory.

    Args:
        values: a plain config.
        classes: of the data.
        settings: of the task's `sampling`.
        batch_size: images at a time, all chips together; filled up to as many on each.
        prompts: see `vit_jax.checkpoints.sampling.sample`.

    Returns:
        `KEYS`, and what the task counts on paper, see `Task.sampling_costs`.
    """
    task, variables = rehearse_task(values, classes)
    chosen = settings_of(task, settings, "a generator of images")
    mesh = make_mesh({}, target.devices)
    rows, everywhere = batch_sharding(mesh), replicated(mesh)
    variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), variables)
    compiled, _, count, seconds = compiled_sampler(task, variables, chosen, batch_size, rows, prompts, target.options)
    found = costs_of(compiled, mesh, target.chip)
    found |= {
        "flops": sum(entry["flops"] for entry in found["kernels"]),  # each turn of a loop, see `counted_flops`
        "settings": dataclasses.asdict(chosen),
        "batch_size": count,
        "compile_seconds": seconds,
        "hbm_bytes": target.chip.hbm_bytes,
    }
    running = sum(entry["seconds"] for entry in found["kernels"] if entry["kind"] != "collective")
    found |= {
        "flops_per_image": found["flops"] * mesh.size / count,
        "batch_seconds": running,
        "images_per_second": count / running if running else None,
        "fits": found["peak_bytes"] <= target.chip.hbm_bytes,
    }
    return {key: found[key] for key in KEYS} | task.sampling_costs(chosen)


def compiled_sampler(
    task: Task,
    variables: Variables,
    settings: Any,
    batch_size: int,
    rows: jax.sharding.NamedSharding,
    prompts: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> tuple[jax.stages.Compiled, Variables, int, float]:
    """The program that draws a batch, the variables as it takes them, see `narrowed`, of how many images it is, and the
    seconds that compiling took.

    Args:
        variables: shapes and types, with their shardings, are enough.
        options: of the compiler.
    """
    began = time.perf_counter()
    shapes = shapes_of(task, settings, batch_size, rows, prompts)
    with computing_on(rows.mesh.devices.flat[0].platform):
        program = drawing(task, settings, rows)
        variables = narrowed(variables, program.trace(variables, *shapes))
        lowered = program.lower(variables, *shapes)
    compiled = lowered.compile(compiler_options=dict(options) if options else None)
    return compiled, variables, shapes[1].shape[0], time.perf_counter() - began


def counted_flops(compiled: jax.stages.Compiled) -> int:
    """Operations of matrix products and convolutions in a compiled program on each device, with each turn of a loop, of
    which the compiler's own count has one."""
    return sum(entry["flops"] for entry in by_kind(kernels(compiled.as_text())))
