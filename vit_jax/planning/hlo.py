"""What a compiled program says about itself in XLA's text form: the collectives that it runs."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")

_BITS = {"pred": 8, "token": 0}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$|^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")


def collectives(text: str, mesh: Mesh) -> list[dict[str, Any]]:
    """The collectives of a compiled step, those of one kind over the same mesh axes added up.

    A collective inside a loop counts as often as the loop runs, where the compiler knows how often.

    Args:
        text: `compiled.as_text()`.
        mesh: the devices that it was compiled for.

    Returns:
        `kind`, `axes` (names of the mesh axes along which devices talk), `count`, and `bytes`: of the larger of operand
        and result on one device, over all of them.
    """
    found: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for kind, size, groups, times in _walk(text):
        entry = found.setdefault((kind, _axes(groups, mesh)), [0, 0])
        entry[0] += times
        entry[1] += times * size
    return [
        {"kind": kind, "axes": list(axes), "count": count, "bytes": size}
        for (kind, axes), (count, size) in sorted(found.items(), key=lambda item: -item[1][1])
    ]


def _walk(text: str) -> Iterator[tuple[str, int, list[list[int]] | None, int]]:
    """(kind, bytes, groups of devices, runs) of every collective."""
    computations, entry = _computations(text)
    runs = dict.fromkeys(computations, 0)

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for _, operation, rest in computations[name]:
            if operation.removesuffix("-start") in COLLECTIVES or operation in ("reduce", "sort", "scatter", "map"):
                continue  # what they call adds two numbers
            if operation.endswith(("-done", "-update")):
                continue  # what was started was counted there
            repeated = _trips(rest, computations) if operation == "while" else 1
            for called in _CALLED.findall(rest):
                for inner in re.findall(r"[\w.\-]+", called):
                    if inner in computations:
                        visit(inner, times * repeated)

    visit(entry, 1)
    for name, instructions in computations.items():
        for result, operation, rest in instructions:
            kind = operation.removesuffix("-start")
            if kind not in COLLECTIVES or not runs[name]:
                continue
            sizes = [_bytes(m) for m in _ARRAY.finditer(result) if m[2]]
            if operation.endswith("-start") and kind != "all-reduce":
                sizes = sizes[len(sizes) // 2 :]  # operands, then results
            size = sum(sizes)
            groups = _groups(rest)
            if kind == "reduce-scatter" and groups:
                size *= len(groups[0])
            yield kind, size, groups, runs[name]


def _trips(rest: str, computations: dict[str, list[tuple[str, str, str]]]) -> int:
    """How often a loop runs: as the compiler notes it, or the one whole number in its condition; else 1."""
    if known := re.search(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)', rest):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", rest)
    inside = computations.get(condition[1], []) if condition else []
    numbers = [
        other.split(")")[0] for result, operation, other in inside if operation == "constant" and "32[]" in result
    ]
    return int(numbers[0]) if len(numbers) == 1 and numbers[0].isdigit() else 1


def _computations(text: str) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
    """Instructions (result type, operation, the rest of the line) by computation, and the name of the entry."""
    computations: dict[str, list[tuple[str, str, str]]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" ") and (header := _COMPUTATION.match(line)):
            current = header[1] or header[2]
            computations[current] = []
            if line.startswith("ENTRY"):
                entry = current
        elif current is not None and (found := _INSTRUCTION.match(line)):
            computations[current].append((found[1], found[2], found[3]))
    return computations, entry


def _bytes(array: re.Match) -> int:
    kind, dimensions = array[1], array[2]
    bits = _BITS.get(kind) if kind in _BITS else int(re.search(r"\d+", kind)[0]) if re.search(r"\d", kind) else 0
    return int(np.prod([int(d) for d in dimensions.split(",") if d], dtype=np.int64)) * bits // 8


def _groups(rest: str) -> list[list[int]] | None:
    """Devices that talk to each other, as positions in the mesh; None for all of them."""
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, source, order = ([int(n) for n in part.split(",")] if part else None for part in found.groups())
        numbers = np.arange(np.prod(source)).reshape(source)
        return (numbers.transpose(order) if order else numbers).reshape(shape).tolist()
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", rest):
        groups = [[int(n) for n in group.split(",") if n] for group in re.findall(r"\{([\d,]*)\}", found[1])]
        return [group for group in groups if group] or None
    return None


def _axes(groups: list[list[int]] | None, mesh: Mesh) -> tuple[str, ...]:
    if groups is None:
        return tuple(name for name, size in mesh.shape.items() if size > 1)
    varies = set()
    for group in groups:
        places = np.unravel_index(group, mesh.devices.shape)
        varies |= {name for name, along in zip(mesh.axis_names, places, strict=True) if len(set(along)) > 1}
    return tuple(name for name in mesh.axis_names if name in varies)
