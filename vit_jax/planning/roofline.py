"""How long a step takes at least: each resource at its peak rate."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax.planning.rehearsal import Rehearsal
from vit_jax.training.chips import GPUS, Chip

# How much of the data each device sends, as a share of the larger of operand and result, by a ring of n devices.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
# What a ring runs, and so a host's members of a group share their network cards.
_RINGS = ("all-reduce", "all-gather", "reduce-scatter")


def finished(found: Mapping[str, Any], keys: Sequence[str], rehearsal: Rehearsal, chip: Chip) -> dict[str, Any]:
    """What was read from a compiled step, with the roofline, "resources" and what follows from it.

    A TPU takes as long as the busiest of compute, memory and links. A GPU runs kernels one after the other: each takes
    as long as the busier of its compute and memory, and collectives run beside all of them.

    Args:
        keys: what is kept of it, in order.
    """
    found, config = _accumulated(found, rehearsal), rehearsal.config
    resources, seconds = None, None
    if not found["oom"]:
        links = sum(seconds_of(each, rehearsal.mesh, chip) for each in found["collectives"])
        if chip.name.lower() in GPUS:
            computing = sum(entry["compute_seconds"] for entry in found["kernels"] if entry["kind"] != "collective")
            running = sum(entry["seconds"] for entry in found["kernels"] if entry["kind"] != "collective")
            resources = {"compute": computing, "memory": running - computing, "links": links}
            seconds = max(running, links)
        else:
            memory = found["bytes_accessed"] / chip.hbm_bandwidth
            resources = {"compute": found["flops"] / chip.flops, "memory": memory, "links": links}
            seconds = max(resources.values())
    example = rehearsal.training_flops()
    # The compiler's count would not do: it has what is computed twice, and a loop's body once.
    useful = example * config.batch_size / rehearsal.mesh.size if example else None
    found |= {
        "hbm_bytes": chip.hbm_bytes,
        "step_seconds": seconds,
        **rehearsal.units().per_second(config.batch_size / seconds if seconds else None),
        "mfu": useful / (seconds * chip.flops) if seconds and useful else None,
        "fits": not found["oom"] and found["peak_bytes"] <= chip.hbm_bytes,
        "implementations": rehearsal.implementations(),
    }
    return {k: found[k] for k in keys if k in found} | {"resources": resources}


def _accumulated(found: Mapping[str, Any], rehearsal: Rehearsal) -> dict[str, Any]:
    """With what the loop over microbatches does more often than the compiler counts.

    It counts one microbatch and the update. The update is taken off as reading and writing all of the state once, and
    an optimizer does ten operations a parameter; what is left is done once for each microbatch.
    """
    found, config = dict(found), rehearsal.config
    times = config.batch_size // (config.microbatch or config.batch_size)
    if times > 1 and not found["oom"] and found["bytes_accessed"] is not None:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(rehearsal.program.params))
        update = {"bytes_accessed": 2 * found["arguments_bytes"], "flops": 10 * parameters}
        for key, once in update.items():
            found[key] += (times - 1) * max(found[key] - once, 0)
    return found


def seconds_of(collective: Mapping[str, Any], mesh: Mesh, chip: Chip) -> float:
    """How long the links are busy with an entry of `collectives`.

    Between the hosts of GPUs a ring has as many lanes as members on each host, which have a network card each.
    """
    members, local = _group(collective["axes"], mesh)
    sent = collective["bytes"] * _SENT.get(collective["kind"], lambda n: (n - 1) / n)(max(members, 1))
    rate = chip.link_bandwidth / 2
    if chip.network_bandwidth and local < members:
        lanes = local if collective["kind"] in _RINGS else 1
        rate = min(rate, lanes * chip.network_bandwidth / 2)
    return sent / rate


def _group(axes: Sequence[str], mesh: Mesh) -> tuple[int, int]:
    """How many devices talk along some axes, and how many of them are on the first one's host."""
    along = tuple(slice(None) if name in axes else 0 for name in mesh.axis_names)
    members = np.ravel(mesh.devices[along])
    return len(members), sum(d.process_index == members[0].process_index for d in members)
