"""What the devices of a compiled program send to each other."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from vit_jax.planning.hlo import parse

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")


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


def collective_kind(operation: str) -> str | None:
    """The collective that an operation is, or starts; None for any other."""
    kind = operation.removesuffix("-start")
    return kind if kind in COLLECTIVES else None


def _walk(text: str) -> Iterator[tuple[str, int, list[list[int]] | None, int]]:
    """(kind, bytes, groups of devices, runs) of every collective."""
    for each, _, times in parse(text).executed():
        kind = collective_kind(each.operation)
        if kind is None:
            continue
        # What is sent: without the padding of tiles.
        sizes = [shape.unpadded for shape in each.shapes if shape.dims]
        if each.operation.endswith("-start") and kind != "all-reduce":
            sizes = sizes[len(sizes) // 2 :]  # operands, then results
        size, groups = sum(sizes), _groups(each.rest)
        if kind == "reduce-scatter" and groups:
            size *= len(groups[0])
        yield kind, size, groups, times


def _groups(rest: str) -> list[list[int]] | None:
    """Devices that talk to each other, as positions in the mesh; None for all of them."""
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, source, order = found.groups()
        return _counted(source, order).reshape([int(n) for n in shape.split(",")]).tolist()
    mesh = r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
    if found := re.search(mesh, rest):
        return _groups_of_mesh(*found.groups())
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", rest):
        groups = [[int(n) for n in group.split(",") if n] for group in re.findall(r"\{([\d,]*)\}", found[1])]
        return [group for group in groups if group] or None
    return None


def _groups_of_mesh(sizes: str, source: str | None, order: str | None, along: str) -> list[list[int]]:
    """mesh['a'=2,'b'=4] {'b'}: two groups of four, of devices counted as `_counted` says or in their order."""
    axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
    within = re.findall(r"'(\w+)'", along)
    numbers = _counted(source or str(int(np.prod(list(axes.values())))), order)
    names = list(axes)
    places = [names.index(n) for n in names if n not in within] + [names.index(n) for n in within]
    groups = numbers.reshape(list(axes.values())).transpose(places)
    return groups.reshape(-1, int(np.prod([axes[n] for n in within], dtype=int))).tolist()


def _counted(source: str, order: str | None) -> np.ndarray:
    """0, 1, 2, ... in an array of shape `source`, its axes then put in this order: "64,8" and "1,0"."""
    shape = [int(n) for n in source.split(",")]
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return numbers.transpose([int(n) for n in order.split(",")]) if order else numbers


def _axes(groups: list[list[int]] | None, mesh: Mesh) -> tuple[str, ...]:
    if groups is None:
        return tuple(name for name, size in mesh.shape.items() if size > 1)
    varies = set()
    for group in groups:
        places = np.unravel_index(group, mesh.devices.shape)
        varies |= {name for name, along in zip(mesh.axis_names, places, strict=True) if len(set(along)) > 1}
    return tuple(name for name in mesh.axis_names if name in varies)
