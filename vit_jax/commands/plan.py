"""Say before a launch what a train step needs on TPUs or GPUs: memory, time, and what limits it. None need be there.

examples:
  vit_jax plan --config bench_b16 --topology v5e:2x2
  vit_jax plan --config bench_b16:chips=8,per_chip=256 --topology h100:8
  vit_jax plan --config vit_i21k:variant=L/16 --topology v5e:16x16 --classes 21843 --config.model.scan=True
  vit_jax plan --config vit_i21k:variant=H/14,aug=medium2 --topology v4:4x4x4 --sweep
  vit_jax plan --config digits --topology cpu:8 --json
  vit_jax plan --config generator.py --topology v5e:1x1 --sample --steps 64 --guidance 1.5

The real train step is compiled by the device's own compiler (pip install 'vit_jax[plan]' for TPUs, 'vit_jax[plan-gpu]'
for GPUs); no data is read. Topologies are v4:4x4x4, v5e:16x16, v5p:4x4x8, v6e:16x16 and the like, in chips; a100:8,
h100:64, h200:16, b200:8, in GPUs on hosts of eight; or cpu:N for this machine as N devices. A deep model compiles for
minutes, with --config.model.scan=True for less; results are kept in ~/.cache/vit_jax/plan.

The step time is a roofline. On a TPU it is what the busiest of compute, memory and links takes at its peak rate: a real
step takes longer than the first and usually less than the second, for XLA counts data that it moves into on-chip memory
several times; "bytes counted" has each operand of each kernel once. A GPU runs one kernel after the other, each as long
as the busier of compute and memory; a real step takes longer, since no kernel reaches both peaks.
With the extra plan-gpu and no GPU, jax prints an error about CUDA whenever it starts; JAX_PLATFORMS=cpu silences it.
--sample plans the program that draws a batch of samples instead: its operations are those of matrix products and
convolutions, each turn of a loop. --sweep tries batch, remat and mesh on shallow models and recommends one. Exit status
0 whether or not it fits.
"""

import argparse
import json
import sys
from typing import Any

from vit_jax.commands import plan_sample
from vit_jax.commands.arguments import add_config, add_settings, read_config
from vit_jax.commands.table import table
from vit_jax.errors import UserError
from vit_jax.training.chips import GPUS

_KINDS = {
    "product": "matrix products", "attention": "attention kernels", "elementwise": "elementwise fusions",
    "copy": "copies and transposes", "collective": "collectives", "other": "other kernels", "prefetch": "prefetches",
}  # fmt: skip
_PREALLOCATED = 0.75  # of a GPU's memory, by default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, True, "the config whose train step is compiled")
    parser.add_argument("--topology", required=True, metavar="NAME:SHAPE", help="for example v5e:16x16 or cpu:8")
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="outputs of the head (default 1000)")
    parser.add_argument("--sweep", action="store_true", help="try batch, remat and mesh, and recommend one")
    parser.add_argument(
        "--sample", action="store_true", help="plan drawing samples; the task's settings are flags then"
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="samples at a time (default 16)")
    add_settings(parser, where="--sample")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table; all figures per chip")
    parser.add_argument("--no-cache", action="store_true", help="compile even what was compiled before")


def run(arguments: argparse.Namespace) -> None:
    import jax

    # Only the compiler of another device is wanted: no TPU or GPU of this machine is taken.
    jax.config.update("jax_platforms", "cpu")
    from vit_jax.planning.plan import KEYS, cache_folder, plan
    from vit_jax.planning.topology import topology

    if arguments.classes < 1:
        raise UserError(f"--classes is {arguments.classes}", "It must be at least 1")
    values = read_config(arguments)
    target = topology(arguments.topology)
    if arguments.sample:
        plan_sample.run(arguments, values, target)
        return
    cache = None if arguments.no_cache else cache_folder()
    if arguments.sweep:
        _sweep(arguments, values, target, cache)
        return
    print(f"Compiling for {len(target.devices)} chips with {target.compiler} ...", file=sys.stderr)
    found = plan(values, arguments.classes, target, cache)
    print(
        json.dumps({k: found[k] for k in KEYS if k in found}, indent=2)
        if arguments.json
        else _show(found, values, target)
    )


def _sweep(arguments: argparse.Namespace, values: dict[str, Any], target: Any, cache: Any) -> None:
    from vit_jax.planning.plan import KEYS
    from vit_jax.planning.sweep import sweep

    def line(changes: dict[str, Any], found: dict[str, Any]) -> None:
        unit, speed = _speed(found)
        said = f"{speed:,.0f} {unit}/s" if found["fits"] else "does not fit"
        print("  ".join(f"{k}={v}" for k, v in changes.items()), " ", said, file=sys.stderr, flush=True)

    tried = sweep(values, arguments.classes, target, cache, line)
    recommended = tried[0][0] if tried[0][1]["fits"] else None
    if arguments.json:
        rows = [{"changes": changes, **{k: found[k] for k in KEYS if k in found}} for changes, found in tried]
        print(json.dumps({"tried": rows, "recommended": recommended}, indent=2))
        return
    rows = [
        [
            " ".join(f"{k}={v}" for k, v in changes.items()), _size(found["peak_bytes"]),
            "yes" if found["fits"] else "no",
            _number(_speed(found)[1], ",.0f"), _number(found["mfu"], ".1%"),
        ]
        for changes, found in tried
    ]  # fmt: skip
    print(table(["", "peak", "fits", f"{_speed(tried[0][1])[0]}/s", "MFU"], rows))
    if recommended is None:
        print(f"\nNothing fits. {_advice(tried[0][1], values)}")
    else:
        print("\nRecommended: " + " ".join(f"--config.{k}={v}" for k, v in recommended.items()))


def _show(found: dict[str, Any], values: dict[str, Any], target: Any) -> str:
    batch, chips = values["batch_size"], len(target.devices)
    rows = [
        ["arguments", _size(found["arguments_bytes"])],
        ["temporaries", _size(found["temporaries_bytes"])],
        ["peak", f"{_size(found['peak_bytes'])} of {_size(found['hbm_bytes'])}"],
    ]
    if found["bytes_accessed"] is not None:
        rows.append(["bytes accessed, as XLA counts", f"{found['bytes_accessed'] / 1e9:,.1f} GB"])
    rows += [
        ["bytes counted", f"{_number(found['counted_bytes'], ',.1f', 1e9)} GB"],
        ["operations", f"{_number(found['flops'], ',.3f', 1e12)} TFLOP"],
    ]
    for each in found["kernels"]:
        operations = f", {each['flops'] / 1e12:,.3f} TFLOP" if each["flops"] else ""
        taken = f", {1e3 * each['seconds']:,.1f} ms" if each["kind"] not in ("collective", "prefetch") else ""
        rows.append([f"{each['count']:,} {_KINDS[each['kind']]}", f"{each['bytes'] / 1e9:,.1f} GB{operations}{taken}"])
    for each in found["collectives"]:
        axes = ", ".join(each["axes"]) or "no axis"
        rows.append([f"{each['count']} {each['kind']} over {axes}", f"{each['bytes'] / 1e6:,.1f} MB"])
    rows += [[kind, f"as {which}"] for kind, which in found["implementations"].items()]
    rows.append(["compile time", f"{found['compile_seconds']:.0f} s"])
    if found["resources"]:
        binding = max(found["resources"], key=found["resources"].get)
        each = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in found["resources"].items())
        rows += [
            ["step at the roofline", f"{1e3 * found['step_seconds']:.1f} ms, bound by {binding} ({each} ms)"],
            *(
                [f"{unit}/s", f"{speed:,.0f} ({speed / chips:,.0f} a chip)"]
                for unit in ("images", "examples", "tokens")
                if (speed := found.get(f"{unit}_per_second"))
            ),
            [
                "MFU",
                "not known: the model does not count its operations" if found["mfu"] is None else f"{found['mfu']:.1%}",
            ],
        ]
    fits = "It fits." if found["fits"] else f"It does not fit. {_advice(found, values)}"
    if target.chip.name.lower() in GPUS:
        fits = f"{fits}\n\n{_unknown(found, values)}"
    model = values.get("model") or {}
    title = f"{model.get('variant', model.get('name', 'model'))}, batch {batch}, on {chips} {target.chip.name} chips"
    return f"{title}; each chip:\n\n{table(['', 'a step'], rows)}\n\n{fits}"


def _speed(found: dict[str, Any]) -> tuple[str, float | None]:
    """What examples are called, and how many a second."""
    from vit_jax.training.units import examples_of

    unit = examples_of(found)
    return unit, found[f"{unit}_per_second"]


def _advice(found: dict[str, Any], values: dict[str, Any]) -> str:
    """By how much it does not fit, and which of fsdp, remat and batch would help, from what takes the memory."""
    from vit_jax.training.units import examples_of

    capacity, state = found["hbm_bytes"], found["arguments_bytes"]
    over = found["peak_bytes"] - capacity
    model, mesh = values.get("model") or {}, values.get("mesh") or {}
    part = (values.get("microbatch") or values["batch_size"]) // 2
    helps = []
    # The state is what fsdp divides; what comes and goes in a step is for remat and for the batch.
    if mesh.get("fsdp", 1) == 1 and mesh.get("data", -1) != 1 and state > 0.2 * capacity:
        helps.append(f"split the state of {_size(state)} with --config.mesh.data=1 --config.mesh.fsdp=-1")
    if state < capacity:
        if model.get("remat", "none") != "full":
            helps.append("compute activations again with --config.model.remat=full")
        if part:
            helps.append(f"take fewer {examples_of(found)} at a time with --config.microbatch={part}")
        rest = f"of {_size(found['temporaries_bytes'])} of temporaries {_size(max(capacity - state, 0))} have room"
    else:
        rest = "the state alone is too large: neither remat nor a smaller batch helps"
    what = "; or ".join(helps) or "take more chips"
    return f"{_size(over)} a chip are missing: {rest}. {what[0].upper()}{what[1:]}."


def _unknown(found: dict[str, Any], values: dict[str, Any]) -> str:
    """What a plan for GPUs leaves out."""
    attention = any(each["kind"] == "attention" for each in found["kernels"])
    half = (values.get("model") or {}).get("dtype") in ("bfloat16", "float16")
    notes = [
        "Not known without a GPU: which products Triton or other cuBLAS tiles would run faster (autotuning), and their"
        " scratch memory.",
        "cuDNN's attention is counted on paper: each operand once, two products forward and five backward."
        if attention
        else "No kernel is cuDNN's attention." + ("" if half else " It needs half precision."),
    ]
    if found["fits"] and found["peak_bytes"] > _PREALLOCATED * found["hbm_bytes"]:
        notes.append("jax takes 75% of a GPU's memory at first; this needs XLA_PYTHON_CLIENT_MEM_FRACTION=0.95.")
    return "\n".join(notes)


def _size(size: float) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**26 else f"{size / 2**20:,.2f} MiB"


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "unknown" if value is None else format(value / unit, form)
