"""Memory and time of a train step on devices that need not be there, read from what their compiler makes of it."""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vit_jax.errors import UserError
from vit_jax.nn.trunk import trunk_of
from vit_jax.planning.collectives import collectives
from vit_jax.planning.memory import peak_bytes
from vit_jax.planning.rehearsal import Rehearsal, rehearse
from vit_jax.planning.roofline import finished
from vit_jax.planning.topology import Topology
from vit_jax.planning.traffic import by_kind, counted_bytes, kernels
from vit_jax.tasks import static_argument
from vit_jax.training.chips import Chip

# What `plan --json` gives, in this order: images a second or, without images, examples; tokens where there is text.
KEYS = (
    "arguments_bytes", "temporaries_bytes", "peak_bytes", "hbm_bytes", "bytes_accessed", "counted_bytes", "flops",
    "kernels", "collectives", "compile_seconds", "step_seconds", "images_per_second",
    "examples_per_second", "tokens_per_second", "mfu", "fits", "implementations",
)  # fmt: skip
_FORM = 3  # of what is kept
_DEPTHS = (2, 4)  # of the models from which the costs of a scanned one are extended
_ADDITIVE = ("temporaries_bytes", "bytes_accessed", "counted_bytes", "flops")


def plan(values: Mapping[str, Any], classes: int, target: Topology, cache: Path | None = None) -> dict[str, Any]:
    """What one step of a config takes on each chip.

    The peak is that of the real step. A TPU's compiler counts what a loop computes once, so the costs of a model whose
    blocks are scanned are those of the same model without scan at depths 2 and 4, extended linearly. What is counted
    from the program's text, which is all that there is for GPUs, counts each turn of a loop.

    Args:
        values: a plain config.
        classes: outputs of the head.
        target: the devices.
        cache: where results are kept by program, topology and versions; None to always compile.

    Returns:
        `KEYS`, per chip except for speeds; what cannot be known is None. And "resources", the seconds that
        each resource alone would need.
    """
    rehearsal = rehearse(values, classes, target.devices)
    found = _compile(rehearsal, target, cache)
    if (values.get("model") or {}).get("scan") and found["bytes_accessed"] is not None:
        costs = _extended(values, classes, target, cache, _depth(rehearsal))
        found |= {k: costs[k] for k in ("bytes_accessed", "flops", "collectives")}
        found["compile_seconds"] += costs["compile_seconds"]
    return finished(found, KEYS, rehearsal, target.chip)


def figures(compiled: jax.stages.Compiled, rehearsal: Rehearsal, chip: Chip) -> dict[str, Any]:
    """What `plan` gives, of a step that is compiled already; scanned models by what is counted from its text alone."""
    return finished(costs_of(compiled, rehearsal.mesh, chip) | {"compile_seconds": 0.0}, KEYS, rehearsal, chip)


def estimate(values: Mapping[str, Any], classes: int, target: Topology, cache: Path | None = None) -> dict[str, Any]:
    """The same as `plan`, memory too extended from shallow models: rougher, and for deep models many times faster."""
    rehearsal = rehearse(values, classes, target.devices)
    found = _extended(values, classes, target, cache, _depth(rehearsal))
    return finished(found, KEYS, rehearsal, target.chip)


def cache_folder() -> Path:
    """Where plans are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vit_jax" / "plan"


def _depth(rehearsal: Rehearsal) -> int:
    depth = getattr(trunk_of(rehearsal.task.model), "depth", None)
    if depth is None:
        raise UserError("Only the costs of a trunk with a depth can be extended", "Set config.model.scan=False")
    return depth


def _extended(
    values: Mapping[str, Any], classes: int, target: Topology, cache: Path | None, depth: int
) -> dict[str, Any]:
    """Costs of the unscanned model, a line through those at two depths."""
    low, high = _DEPTHS
    at = {}
    for shallow in (depth,) if depth in _DEPTHS else _DEPTHS:
        model = {**values["model"], "depth": shallow, "scan": False}
        at[shallow] = _compile(rehearse({**values, "model": model}, classes, target.devices), target, cache)
    worst = max(at.values(), key=lambda found: found["peak_bytes"])
    if depth in at or worst["oom"]:
        return worst

    def line(first: float | None, second: float | None) -> float | None:
        if first is None or second is None:
            return None
        value = max(0, first + (second - first) * (depth - low) / (high - low))
        return value if isinstance(first, float) else round(value)

    def lines(name: str) -> list[dict[str, Any]]:
        """Entries of both depths that differ in numbers alone; one that a depth lacks is nothing there."""
        shallow, deep = ({_label(entry): entry for entry in at[d][name]} for d in _DEPTHS)
        extended = []
        for label in dict.fromkeys((*shallow, *deep)):
            one, two = shallow.get(label), deep.get(label)
            some = one or two
            numbers = {k: (one[k] if one else 0, two[k] if two else 0) for k, v in some.items() if _is_number(v)}
            extended.append(some | {k: line(*ends) for k, ends in numbers.items()})
        return extended

    found = {k: line(at[low][k], at[high][k]) for k in (*_ADDITIVE, "arguments_bytes", "peak_bytes")}
    found |= {name: lines(name) for name in ("collectives", "kernels")}
    found["compile_seconds"] = sum(at[d]["compile_seconds"] for d in _DEPTHS)
    return found | {"oom": False}


def _label(entry: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in entry.items() if not _is_number(v)})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _compile(rehearsal: Rehearsal, target: Topology, cache: Path | None) -> dict[str, Any]:
    """Compiles the step, or reads the result of an earlier compilation."""
    lowered = rehearsal.program.lower(static_argument(rehearsal.task, 0))
    versions = f"{target.name} {target.compiler} jax {jax.__version__} {dict(rehearsal.mesh.shape)} {_FORM}"
    key = hashlib.sha256(f"{versions}\n{lowered.as_text()}".encode()).hexdigest()[:32]
    kept = cache / f"{key}.json" if cache else None
    if kept and kept.exists():
        return json.loads(kept.read_text())["found"]
    found = _read(lowered, rehearsal, target)
    if kept:
        cache.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"versions": versions, "found": found}))
        partial.replace(kept)
    return found


def _read(lowered: jax.stages.Lowered, rehearsal: Rehearsal, target: Topology) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=dict(target.options))
    except jax.errors.JaxRuntimeError as error:
        return _too_large(str(error), rehearsal, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    return costs_of(compiled, rehearsal.mesh, target.chip) | {"compile_seconds": seconds}


def costs_of(compiled: jax.stages.Compiled, mesh: Mesh, chip: Chip) -> dict[str, Any]:
    """Memory, traffic and collectives of a compiled program: what `plan` gives before the roofline."""
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    text = compiled.as_text()
    counted = kernels(text)
    kinds = by_kind(counted, chip.hbm_bandwidth, chip.flops)
    return {
        "arguments_bytes": arguments,
        "temporaries_bytes": temporaries,
        "peak_bytes": peak_bytes(compiled),
        # XLA's own count, which the compiler of GPUs does not make.
        "bytes_accessed": round(costs["bytes accessed"]) if costs else None,
        "counted_bytes": counted_bytes(kinds),
        "flops": round(costs["flops"]) if costs else sum(entry["flops"] for entry in kinds),
        "kernels": kinds,
        "collectives": collectives(text, mesh),
        "oom": False,
    }


def _too_large(message: str, rehearsal: Rehearsal, seconds: float) -> dict[str, Any]:
    """What the compiler says about a program that it could not place: the memory that it would need."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    wanted = re.search(r"Used ([\d.]+)([KMGT]) of|temporaries \(([\d.]+)([KMGT])\)", message)
    if "RESOURCE_EXHAUSTED" not in message or not wanted:
        raise jax.errors.JaxRuntimeError(message)
    number, unit = [part for part in wanted.groups() if part]
    needed = round(float(number) * units[unit])
    arguments = sum(
        _shard_bytes(leaf, sharding)
        for leaf, sharding in zip(
            jax.tree.leaves(rehearsal.program.state), jax.tree.leaves(rehearsal.program.shardings), strict=True
        )
    )
    whole = needed if wanted[1] else needed + arguments
    return {
        "arguments_bytes": arguments,
        "temporaries_bytes": whole - arguments,
        "peak_bytes": whole,
        "bytes_accessed": None,
        "counted_bytes": None,
        "flops": None,
        "kernels": [],
        "collectives": [],
        "compile_seconds": seconds,
        "oom": True,
    }


def _shard_bytes(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.NamedSharding) -> int:
    size = leaf.dtype.itemsize
    for side in sharding.shard_shape(leaf.shape):
        size *= side
    return size
