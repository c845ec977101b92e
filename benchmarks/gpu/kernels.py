"""The kernels that took longest, from the trace that jax's profiler writes."""

import collections
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def top_kernels(folder: Path, count: int = 10) -> dict[str, Any]:
    """What the devices did in the newest trace below a folder.

    On a GPU these are the kernels and copies of its streams; elsewhere the operations of the compiled programs, each
    without those that ran inside it.

    Returns:
        `seconds` of all of them together, and `kernels`: the longest `count`, each with `name`, `times`, `seconds` and
        `share` of all. None at all where the trace has no such events.
    """
    traces = sorted(folder.rglob("*.trace.json.gz"), key=lambda file: file.stat().st_mtime)
    events = json.loads(gzip.decompress(traces[-1].read_bytes()))["traceEvents"] if traces else []
    took: dict[str, list[float]] = collections.defaultdict(list)
    for name, microseconds in _work(events):
        took[name].append(microseconds * 1e-6)
    whole = sum(map(sum, took.values()))
    longest = sorted(took.items(), key=lambda item: -sum(item[1]))[:count]
    kernels = [
        {"name": name, "times": len(each), "seconds": sum(each), "share": sum(each) / whole} for name, each in longest
    ]
    return {"seconds": whole, "kernels": kernels}


def _work(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Name and microseconds of each kernel or operation."""
    processes, threads, done = {}, {}, collections.defaultdict(list)
    for event in events:
        if event.get("name") == "process_name":
            processes[event["pid"]] = event["args"]["name"]
        elif event.get("name") == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
        elif event.get("ph") == "X":
            done[event["pid"], event["tid"]].append(event)
    # Beside its streams a GPU has lines that say the same again by operation, module and step.
    streams = [
        line for line in done if "GPU" in processes.get(line[0], "") and threads.get(line, "").startswith("Stream")
    ]
    for line in streams or done:
        # What a thread did: a longer event holds the shorter ones inside it.
        own = sorted(done[line], key=lambda e: (e["ts"], -e.get("dur", 0.0)))
        operations = own if streams else [e for e in own if "hlo_op" in e.get("args", {})]
        yield from _without_inner(operations)


def _without_inner(events: list[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Each event's time less that of the events inside it; by start, the longer of two first."""
    open_events: list[list[Any]] = []  # [name, end, time of its own]
    for event in events:
        begin, duration = event["ts"], event.get("dur", 0.0)
        while open_events and open_events[-1][1] <= begin:
            name, _, own = open_events.pop()
            yield name, own
        if open_events:
            open_events[-1][2] -= duration
        open_events.append([event["name"], begin + duration, duration])
    yield from ((name, own) for name, _, own in open_events)
