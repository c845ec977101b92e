"""What `vit_jax plan --sample` shows: the program that draws a batch of samples."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vit_jax.commands.arguments import read_settings
from vit_jax.commands.table import table
from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.planning.topology import Topology


def run(arguments: argparse.Namespace, values: Mapping[str, Any], target: Topology) -> None:
    """Compiles it and prints what it takes."""
    from vit_jax.planning.rehearsal import rehearse_task
    from vit_jax.planning.sampler import plan_sampler

    if arguments.sweep:
        raise UserError("There are both --sample and --sweep", "Give one of them")
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size is {arguments.batch_size}", "It must be at least 1")
    task, _ = rehearse_task(values, arguments.classes)
    settings = read_settings(arguments, task)
    print(f"Compiling for {len(target.devices)} chips with {target.compiler} ...", file=sys.stderr)
    found = plan_sampler(values, arguments.classes, target, settings, arguments.batch_size)
    print(json.dumps(found, indent=2, default=str) if arguments.json else _show(found, target))


def _show(found: Mapping[str, Any], target: Topology) -> str:
    rows = [
        ["operations an image", f"{found['flops_per_image'] / 1e9:,.3f} GFLOP"],
        ["operations", f"{found['flops'] / 1e12:,.4f} TFLOP"],
        ["parameters and other arguments", _size(found["arguments_bytes"])],
        ["temporaries", _size(found["temporaries_bytes"])],
        ["peak", f"{_size(found['peak_bytes'])} of {_size(found['hbm_bytes'])}"],
        ["bytes counted", f"{found['counted_bytes'] / 1e9:,.2f} GB"],
    ]
    rows += [[name, f"{found[name]:,}"] for name in ("tokens", "passes") if name in found]
    if "cache_bytes" in found:
        rows.append(["cache of an image", _size(found["cache_bytes"])])
    for each in found["kernels"]:
        rows.append([f"{each['count']:,} {each['kind']}", f"{each['bytes'] / 1e9:,.2f} GB"])
    rows.append(["compile time", f"{found['compile_seconds']:.0f} s"])
    if found["images_per_second"]:
        rows.append(["at the roofline", f"{1e3 * found['batch_seconds']:,.1f} ms"])
        rows.append(["images/s", f"{found['images_per_second']:,.3g}"])
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    fits = "It fits." if found["fits"] else "It does not fit: lower --batch-size."
    title = f"{found['batch_size']} samples at a time on {len(target.devices)} {target.chip.name} chips; each chip:"
    return f"{title}\n{settings}\n\n{table(['', 'a batch'], rows)}\n\n{fits}"


def _size(size: float) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**26 else f"{size / 2**20:,.3f} MiB"
