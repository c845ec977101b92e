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

from vit_jax.errors import UserError
from vit_jax.planning.collectives import collectives
from vit_jax.planning.rehearsal import Rehearsal, rehearse
from vit_jax.planning.topology import Topology
from vit_jax.tasks import static_argument

# What `plan --json` gives, in this order.
KEYS = (
    "arguments_bytes", "temporaries_bytes", "peak_bytes", "hbm_bytes", "bytes_accessed", "flops", "collectives",
    "compile_seconds", "step_seconds", "images_per_second", "mfu", "fits",
)  # fmt: skip
_DEPTHS = (2, 4)  # of the models from which the costs of a scanned one are extended
_ADDITIVE = ("temporaries_bytes", "bytes_accessed", "flops")
# How much of the data each device sends, as a share of the larger of operand and result, by a ring of n devices.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}


def plan(values: Mapping[str, Any], classes: int, target: Topology, cache: Path | None = None) -> dict[str, Any]:
    """What one step of a config takes on each chip.

    The peak is that of the real step. XLA counts what a loop computes once, so the costs of a model whose blocks are
    scanned are those of the same model without scan at depths 2 and 4, extended linearly.

    Args:
        values: a plain config.
        classes: outputs of the head.
        target: the devices.
        cache: where results are kept by program, topology and versions; None to always compile.

    Returns:
        `KEYS`, per chip except for `images_per_second`; what cannot be known is None. And "resources", the seconds that
        each resource alone would need.
    """
    rehearsal = rehearse(values, classes, target.devices)
    found = _compile(rehearsal, target, cache)
    if (values.get("model") or {}).get("scan"):
        costs = _extended(values, classes, target, cache, _depth(rehearsal))
        found |= {k: costs[k] for k in ("bytes_accessed", "flops", "collectives")}
        found["compile_seconds"] += costs["compile_seconds"]
    return _finished(found, rehearsal, target)


def estimate(values: Mapping[str, Any], classes: int, target: Topology, cache: Path | None = None) -> dict[str, Any]:
    """The same as `plan`, memory too extended from shallow models: rougher, and for deep models many times faster."""
    rehearsal = rehearse(values, classes, target.devices)
    return _finished(_extended(values, classes, target, cache, _depth(rehearsal)), rehearsal, target)


def cache_folder() -> Path:
    """Where plans are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vit_jax" / "plan"


def _depth(rehearsal: Rehearsal) -> int:
    depth = getattr(getattr(rehearsal.task.model, "encoder", None), "depth", None)
    if depth is None:
        raise UserError("Only the costs of an encoder with a depth can be extended", "Set config.model.scan=False")
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

    def line(first: float, second: float) -> float:
        return max(0, round(first + (second - first) * (depth - low) / (high - low)))

    found = {k: line(at[low][k], at[high][k]) for k in (*_ADDITIVE, "arguments_bytes", "peak_bytes")}
    sent = [{(c["kind"], tuple(c["axes"])): c for c in at[d]["collectives"]} for d in _DEPTHS]
    none = {"count": 0, "bytes": 0}
    found["collectives"] = [
        {
            "kind": kind,
            "axes": list(axes),
            **{k: line(*(each.get((kind, axes), none)[k] for each in sent)) for k in none},
        }
        for kind, axes in dict.fromkeys(key for each in sent for key in each)
    ]
    found["compile_seconds"] = sum(at[d]["compile_seconds"] for d in _DEPTHS)
    return found | {"oom": False}


def _compile(rehearsal: Rehearsal, target: Topology, cache: Path | None) -> dict[str, Any]:
    """Compiles the step, or reads the result of an earlier compilation."""
    lowered = rehearsal.program.lower(static_argument(rehearsal.task, 0))
    versions = f"{target.name} {target.compiler} jax {jax.__version__} {dict(rehearsal.mesh.shape)}"
    key = hashlib.sha256(f"{versions}\n{lowered.as_text()}".encode()).hexdigest()[:32]
    kept = cache / f"{key}.json" if cache else None
    if kept and kept.exists():
        return json.loads(kept.read_text())["found"]
    found = _read(lowered, rehearsal)
    if kept:
        cache.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"versions": versions, "found": found}))
        partial.replace(kept)
    return found


def _read(lowered: jax.stages.Lowered, rehearsal: Rehearsal) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return _too_large(str(error), rehearsal, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    together = arguments + temporaries + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "arguments_bytes": arguments,
        "temporaries_bytes": temporaries,
        "peak_bytes": getattr(memory, "peak_memory_in_bytes", 0) or together,
        "bytes_accessed": round(costs["bytes accessed"]),
        "flops": round(costs["flops"]),
        "collectives": collectives(compiled.as_text(), rehearsal.mesh),
        "compile_seconds": seconds,
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
        "flops": None,
        "collectives": [],
        "compile_seconds": seconds,
        "oom": True,
    }


def _shard_bytes(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.NamedSharding) -> int:
    size = leaf.dtype.itemsize
    for side in sharding.shard_shape(leaf.shape):
        size *= side
    return size


def _finished(found: Mapping[str, Any], rehearsal: Rehearsal, target: Topology) -> dict[str, Any]:
    """With the roofline: the step takes as long as the busiest resource at its peak rate."""
    found, chip, config = _accumulated(found, rehearsal), target.chip, rehearsal.config
    resources = None
    if not found["oom"]:
        resources = {
            "compute": found["flops"] / chip.flops,
            "memory": found["bytes_accessed"] / chip.hbm_bandwidth,
            "links": sum(_seconds(c, rehearsal, chip.link_bandwidth / 2) for c in found["collectives"]),
        }
    seconds = max(resources.values()) if resources else None
    example = rehearsal.training_flops()
    # The compiler's count would not do: it has what is computed twice, and a loop's body once.
    useful = example * config.batch_size / len(target.devices) if example else None
    found |= {
        "hbm_bytes": chip.hbm_bytes,
        "step_seconds": seconds,
        "images_per_second": config.batch_size / seconds if seconds else None,
        "mfu": useful / (seconds * chip.flops) if seconds and useful else None,
        "fits": not found["oom"] and found["peak_bytes"] <= chip.hbm_bytes,
    }
    return {k: found[k] for k in KEYS} | {"resources": resources}


def _accumulated(found: Mapping[str, Any], rehearsal: Rehearsal) -> dict[str, Any]:
    """With what the loop over microbatches does more often than the compiler counts.

    It counts one microbatch and the update. The update is taken off as reading and writing all of the state once, and
    an optimizer does ten operations a parameter; what is left is done once for each microbatch.
    """
    found, config = dict(found), rehearsal.config
    times = config.batch_size // (config.microbatch or config.batch_size)
    if times > 1 and not found["oom"]:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(rehearsal.program.params))
        update = {"bytes_accessed": 2 * found["arguments_bytes"], "flops": 10 * parameters}
        for key, once in update.items():
            found[key] += (times - 1) * max(found[key] - once, 0)
    return found


def _seconds(collective: Mapping[str, Any], rehearsal: Rehearsal, bandwidth: float) -> float:
    devices = 1
    for axis in collective["axes"]:
        devices *= rehearsal.mesh.shape[axis]
    sent = _SENT.get(collective["kind"], lambda n: (n - 1) / n)(max(devices, 1))
    return collective["bytes"] * sent / bandwidth
