"""Other ways to run a config on the same chips: batch, rematerialisation and mesh, and which of them is best."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vit_jax.errors import UserError
from vit_jax.planning.plan import estimate
from vit_jax.planning.topology import Topology
from vit_jax.training.units import examples_of

_REMATS = ("none", "elementwise", "full")
_BATCHES = (0.5, 2, 4)


def sweep(
    values: Mapping[str, Any],
    classes: int,
    target: Topology,
    cache: Path | None = None,
    report: Callable[[dict[str, Any], dict[str, Any]], None] = lambda changes, found: None,
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Tries one thing after the other, each at the best of what came before, and sorts by images per second.

    First remat, then the mesh (all devices on one of the axes data and fsdp), then the batch. Memory and costs are
    those of `estimate`, so that a deep model is not compiled many times.

    Args:
        report: told each candidate as it is measured.

    Returns:
        (changes, what `estimate` gives): `changes` are dotted config keys. What fits comes first, the fastest leading.
    """
    tried: dict[tuple, tuple[dict[str, Any], dict[str, Any]]] = {}

    def attempt(changes: dict[str, Any]) -> None:
        key = tuple(sorted(changes.items()))
        if key in tried:
            return
        try:
            found = estimate(changed(values, changes), classes, target, cache)
        except UserError:  # a batch or a matrix that this mesh cannot split
            return
        tried[key] = changes, found
        report(changes, found)

    def best() -> dict[str, Any]:
        return ranked(tried.values())[0][0] if tried else {}

    base = {
        "model.remat": (values.get("model") or {}).get("remat", "none"),
        "mesh.fsdp": (values.get("mesh") or {}).get("fsdp", 1),
        "batch_size": values["batch_size"],
    }
    attempt(base)
    for remat in _REMATS:
        attempt({**base, "model.remat": remat})
    for fsdp in _splits(len(target.devices)):
        attempt({**best(), "mesh.fsdp": fsdp})
    for factor in _BATCHES:
        attempt({**best(), "batch_size": max(1, int(values["batch_size"] * factor))})
    if not tried:
        raise UserError("No batch, remat and mesh that was tried can be built", "Run without --sweep to see why")
    return ranked(tried.values())


def _splits(devices: int) -> Iterator[int]:
    yield from (n for n in sorted({1, math.gcd(devices, 8), devices}))


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config with the values of some dotted keys replaced."""
    new = dict(values)
    for dotted, value in changes.items():
        section, _, key = dotted.rpartition(".")
        if section:
            new[section] = {**(new.get(section) or {}), key: value}
        else:
            new[key] = value
    return new


def ranked(tried: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What fits before what does not; then by images per second; what does not fit by how much it needs."""

    def speed(found: Mapping[str, Any]) -> float:
        return found[f"{examples_of(found)}_per_second"] or 0

    return sorted(tried, key=lambda t: (not t[1]["fits"], -speed(t[1]), t[1]["peak_bytes"]))
