"""The mesh, and where batches and state live on it: jit with NamedSharding, no per-device code."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.training.parameters import path_name

_BATCH = PartitionSpec(("data", "fsdp"))
_MIN_FSDP_ELEMENTS = 2**20  # below 4 MiB of float32 a gather costs more than the copy saves


def make_mesh(axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh with the axes data, fsdp and tensor; one size may be -1 and takes the devices that are left."""

    def resolve(data: int = -1, fsdp: int = 1, tensor: int = 1) -> tuple[int, ...]:
        return data, fsdp, tensor

    devices = jax.devices() if devices is None else list(devices)
    sizes = list(construct(resolve, axes, "config.mesh"))
    known = int(np.prod([s for s in sizes if s != -1]))
    if sizes.count(-1) == 1 and known > 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or int(np.prod(sizes)) != len(devices):
        data, fsdp, tensor = sizes
        raise UserError(
            f"The mesh data={data}, fsdp={fsdp}, tensor={tensor} does not multiply out to {len(devices)} devices",
            "Change config.mesh, where -1 takes what is left",
        )
    # Auto axes: Linen modules do not trace under the Explicit axes that jax.make_mesh gives by default.
    return jax.make_mesh(sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the axes data and fsdp, replicated over tensor."""
    return NamedSharding(mesh, _BATCH)


def check_batch(mesh: Mesh, batch_size: int, microbatch: int | None) -> None:
    """Refuses batch sizes that the mesh or the accumulation cannot split evenly."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % shards:
        raise UserError(
            f"The batch of {batch_size} examples does not divide over {shards} devices",
            f"Set config.batch_size to a multiple of {shards}",
        )
    if microbatch and (batch_size % microbatch or microbatch % shards):
        raise UserError(
            f"The batch of {batch_size} examples does not split into microbatches of {microbatch} on {shards} devices",
            f"config.microbatch must divide the batch and be a multiple of {shards}",
        )


def host_rows(sharding: NamedSharding, batch_size: int) -> tuple[int, int]:
    """How many slices of the global batch the hosts read, and which of them this host reads.

    Asked of the sharding, not computed from the process index: hosts that differ only along `tensor` read the
    same rows, and the order of devices in the mesh decides which rows are whose.

    Returns:
        (slices, index): this host holds rows [index * B / slices, (index + 1) * B / slices).
    """
    rows = {(s[0].start or 0, batch_size if s[0].stop is None else s[0].stop)
            for s in sharding.addressable_devices_indices_map((batch_size,)).values()}  # fmt: skip
    start, stop = min(r[0] for r in rows), max(r[1] for r in rows)
    size = sum(b - a for a, b in rows)
    if size != stop - start or batch_size % size or start % size:
        raise UserError("The devices of this host do not hold one contiguous slice of the batch", "Change config.mesh")
    return batch_size // size, start // size


def put(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This host's rows as global arrays on the mesh."""
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def place(value: Any, sharding: NamedSharding) -> jax.Array:
    """What every process has in full, as a global array."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


@contextlib.contextmanager
def tensor_axes() -> Iterator[dict[str, int]]:
    """Around tracing `init`: collects which axis of which parameter tensor parallelism splits.

    A Linen module says it beside the parameters that it makes, in a class attribute `TENSOR`: from a name below its own
    ('query/kernel') to an axis. Names that a module does not make for its attributes are not missed.

    Yields:
        A dict that fills while modules are called: 'encoder/block_00/attention/query/kernel' -> 1.
    """
    axes: dict[str, int] = {}

    def note(call: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext) -> Any:
        module = context.module
        for name, axis in getattr(module, "TENSOR", {}).items():
            axes["/".join((*module.path, name))] = axis
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        yield axes


def state_sharding(abstract: PyTree, mesh: Mesh, axes: Mapping[str, int]) -> PyTree:
    """A NamedSharding for every leaf of the training state.

    Heads and hidden layers are split over `tensor`; then the largest dimension that is still free and divisible goes
    over `fsdp`. Optimizer slots and EMA end in their parameter's path, so they are split alike.

    Args:
        axes: what `tensor_axes` found.

    Raises:
        UserError: when what is to be split does not divide, or nothing is.
    """
    params = abstract.get("params", {}) if isinstance(abstract, Mapping) else {}
    shapes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    ways = mesh.shape["tensor"]

    def like_its_parameter(name: str, shape: tuple[int, ...]) -> bool:
        """Factored moments, of another shape than their parameter, have no heads or units to split."""
        return next((held == shape for parameter, held in shapes.items() if name.endswith(f"/{parameter}")), True)

    def split(name: str, shape: tuple[int, ...]) -> int | None:
        """The axis that goes over `tensor`."""
        parts = name.split("/")
        axis = next((axes[end] for i in range(len(parts)) if (end := "/".join(parts[i:])) in axes), None)
        if ways == 1 or axis is None or axis >= len(shape) or not like_its_parameter(name, shape):
            return None
        if shape[axis] % ways:
            raise UserError(
                f"{name} has {shape[axis]} heads or units, which does not divide over tensor={ways}",
                "Lower config.mesh.tensor",
            )
        return axis

    def spec(path: tuple, leaf: Any) -> NamedSharding:
        dims: list[str | None] = [None] * len(leaf.shape)
        if (axis := split(path_name(path), leaf.shape)) is not None:
            dims[axis] = "tensor"
        free = [i for i, d in enumerate(dims) if d is None and leaf.shape[i] % mesh.shape["fsdp"] == 0]
        if mesh.shape["fsdp"] > 1 and free and int(np.prod(leaf.shape)) >= _MIN_FSDP_ELEMENTS:
            dims[max(free, key=lambda i: leaf.shape[i])] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*dims))

    shardings = jax.tree.map_with_path(spec, abstract)
    if ways > 1 and not any("tensor" in sharding.spec for sharding in jax.tree.leaves(shardings)):
        raise UserError("No parameter of this model can be split over config.mesh.tensor", "Use config.mesh.tensor=1")
    _check_fsdp(abstract, shardings, mesh)
    return shardings


def _check_fsdp(abstract: PyTree, shardings: PyTree, mesh: Mesh) -> None:
    """Refuses a size of fsdp by which no large parameter divides: silently, each device would hold all of them."""
    ways = mesh.shape["fsdp"]
    large = [leaf.shape for leaf in jax.tree.leaves(abstract) if int(np.prod(leaf.shape)) >= _MIN_FSDP_ELEMENTS]
    if ways > 1 and large and not any("fsdp" in sharding.spec for sharding in jax.tree.leaves(shardings)):
        fitting = max(math.gcd(side, ways) for shape in large for side in shape)
        raise UserError(
            f"No parameter of this model divides over fsdp={ways}",
            f"Set config.mesh.fsdp={fitting} and leave the other devices to config.mesh.data",
        )
