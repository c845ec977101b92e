"""What layers or models cost at several sizes: time, memory, operations, and how they grow."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax.planning.memory import free_bytes, needed_bytes

MODES = ("forward", "training")
# Libraries of XLA's that fuse products with what follows take scratch memory that the compiler does not count.
_WITHOUT_LIBRARY_FUSIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program and how to run it.

    Args:
        compiled: its memory is known before it runs.
        start: makes its inputs, and returns what runs it once.
    """

    compiled: jax.stages.Compiled
    start: Callable[[], Callable[[], Any]]


def measure(
    programs: Mapping[str, Mapping[str, Program]], rounds: int, warmup: int, free: int | None, place: str
) -> dict[str, dict[str, Any]]:
    """Times programs of one size, by turns, so that a machine with other work slows all alike.

    Each turn of a program begins with untimed runs of it: the system may still be taking back the gigabytes of the one
    before, and that one's data is in the caches.

    Args:
        programs: by name and by mode.
        rounds: timed runs of each.
        warmup: untimed runs before each of those.
        free: bytes that they may take, each by itself; None for any.
        place: where they stand on the board, for what is said of one that does not fit.

    Returns:
        By name and mode "seconds" (median), "seconds_min", on a CPU "cpu_seconds" of all its threads, which other work
        lengthens less, "temporaries_bytes" and "needed_bytes"; or "skipped", why it was not run, and what it would have
        needed.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in programs}
    running = {}
    for name, of_name in programs.items():
        for mode, program in of_name.items():
            needed = needed_bytes(program.compiled)
            found[name][mode] = {
                "temporaries_bytes": program.compiled.memory_analysis().temp_size_in_bytes,
                "needed_bytes": needed,
            }
            if free is not None and needed > free:
                found[name][mode]["skipped"] = (
                    f"{name} at {place} needs {size(needed)} {_IN[mode]}, and {size(free)} may be taken"
                )
            else:
                running[name, mode] = program.start()
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in running}
    for _ in range(rounds):
        for key, once in running.items():
            for _ in range(warmup):
                jax.block_until_ready(once())
            began = time.perf_counter(), time.process_time()
            jax.block_until_ready(once())
            seconds[key].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    for (name, mode), taken in seconds.items():
        wall, cpu = zip(*taken, strict=True)
        found[name][mode] |= {"seconds": statistics.median(wall), "seconds_min": min(wall)}
        if jax.default_backend() == "cpu":
            found[name][mode]["cpu_seconds"] = statistics.median(cpu)
    return found


_IN = {"forward": "for one pass forward", "training": "in training"}


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def milliseconds(found: Mapping[str, Any]) -> str:
    """The time of a row in a mode, or that there is none."""
    return f"{1e3 * found['seconds']:,.1f} ms" if "seconds" in found else "left out"


def exponent(points: Iterable[tuple[float, float | None]]) -> float | None:
    """The slope of a straight line through points on logarithmic axes; None with fewer than two of them."""
    known = [(x, y) for x, y in points if y]
    if len(known) < 2:
        return None
    return round(float(np.polyfit(*np.log(np.array(known, np.float64)).T, 1)[0]), 3)


def exponents(rows: Sequence[Mapping[str, Any]], places: str, fewest: int = 0) -> dict[str, Any]:
    """How the rows of one name grow with their places, tokens or pixels; with the resolution, whose square these are,
    everything grows twice as steeply.

    Args:
        rows: with `places`, "flops", and of each mode "seconds" and "temporaries_bytes".
        places: what they are called.
        fewest: of them from which on rows count.
    """
    large = [row for row in rows if row[places] >= fewest]
    found = {"flops": exponent((row[places], row["flops"]) for row in large)}
    for mode in MODES:
        found[mode] = exponent((row[places], row[mode].get("seconds")) for row in large)
    found["temporaries"] = exponent((row[places], row["training"]["temporaries_bytes"]) for row in large)
    return {
        name: None if slope is None else {places: slope, "resolution": round(2 * slope, 3)}
        for name, slope in found.items()
    }


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """A program whose compiler knows all the memory that it takes; measured, it is as fast."""
    return lowered.compile(compiler_options=_WITHOUT_LIBRARY_FUSIONS if jax.default_backend() == "cpu" else None)


def machine() -> dict[str, Any]:
    """Where it is measured, and what else runs there."""
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "jax": jax.__version__,
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "may_take_bytes": free_bytes(),
    }
