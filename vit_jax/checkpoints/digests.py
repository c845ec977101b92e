"""Checksums of arrays: taken of what is in memory before it is written, compared with what is in memory after reading.

So they cover everything in between, on any file system, and reading a part checks that part alone. CRC-32C, region by
region as the arrays are split over devices; on another mesh the same regions are cut out again.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import google_crc32c
import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree, Shaped

# Name of a leaf -> region ('0:4,0:32', half-open bounds by axis) -> CRC-32C of its bytes in row-major order.
Digests = dict[str, dict[str, int]]

_BLOCK = 2**20  # bytes at a time: google_crc32c takes `bytes` only, and a copy of so few stays in the cache


def digests_of(tree: PyTree) -> Digests:
    """Of all leaves, in every process; to be called in all of them."""
    own = {
        name: {region: _crc(np.asarray(data)) for region, data in _regions(leaf, first_copy=True).items()}
        for name, leaf in named_leaves(tree)
    }
    if jax.process_count() == 1:
        return own
    merged: Digests = {}
    for part in _gathered(own):
        for name, regions in part.items():
            merged.setdefault(name, {}).update(regions)
    return merged


def differing(tree: PyTree, recorded: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Names of the leaves that are not what was recorded, or not recorded; to be called in all processes.

    Each process checks what it holds: what one finds another may not.
    """
    return [name for name, leaf in named_leaves(tree) if not _same(leaf, recorded.get(name, {}))]


def named_leaves(tree: PyTree) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def text_digest(values: Any) -> int:
    """Of plain values, whatever the order of their keys."""
    return google_crc32c.value(json.dumps(values, sort_keys=True).encode())


def _same(leaf: Any, recorded: Mapping[str, int]) -> bool:
    shape = tuple(leaf.shape)
    if isinstance(leaf, jax.Array):
        split = {_text(index, shape) for index in leaf.sharding.devices_indices_map(shape).values()}
    else:
        split = {_text((slice(None),) * len(shape), shape)}
    if split == set(recorded):
        return all(recorded[region] == _crc(np.asarray(data)) for region, data in _regions(leaf).items())
    # It was saved from another mesh.
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    whole, covered = np.asarray(leaf), 0
    for region, crc in recorded.items():
        part = whole[_slices(region)]
        covered += part.size
        if _crc(part) != crc:
            return False
    return covered == whole.size


def _regions(leaf: Any, first_copy: bool = False) -> dict[str, Any]:
    """What this process holds of an array by region, without copies; `first_copy`: what no other process has too."""
    if not isinstance(leaf, jax.Array):
        return {_text((slice(None),) * np.ndim(leaf), np.shape(leaf)): leaf}
    shards = leaf.addressable_shards
    return {_text(s.index, leaf.shape): s.data for s in shards if not first_copy or s.replica_id == 0}


def _text(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    bounds = (s.indices(size) for s, size in zip(index, shape, strict=True))
    return ",".join(f"{start}:{stop}" for start, stop, _ in bounds)


def _slices(region: str) -> tuple[slice, ...]:
    return tuple(slice(*map(int, part.split(":"))) for part in region.split(",") if part)


def _crc(array: Shaped[np.ndarray, "..."]) -> int:
    raw, crc = np.ascontiguousarray(array).reshape(-1).view(np.uint8), 0
    for start in range(0, raw.size, _BLOCK):
        crc = google_crc32c.extend(crc, raw[start : start + _BLOCK].tobytes())
    return crc


def _gathered(own: Digests) -> Iterator[Digests]:
    packed = zlib.compress(json.dumps(own).encode())
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(packed))))
    line = np.frombuffer(packed.ljust(int(sizes.max())), np.uint8)
    for size, other in zip(sizes, np.asarray(multihost_utils.process_allgather(line)), strict=True):
        yield json.loads(zlib.decompress(other.tobytes()[:size]))
