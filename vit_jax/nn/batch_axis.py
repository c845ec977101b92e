"""Activations stay split by example, however the parameters that they meet are split."""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

_split: contextvars.ContextVar[NamedSharding | None] = contextvars.ContextVar("split", default=None)


@contextlib.contextmanager
def batch_split_like(sharding: NamedSharding) -> Iterator[None]:
    """Around tracing: batches are split over the axes of the mesh that `sharding` names for its first dimension."""
    token = _split.set(sharding)
    try:
        yield
    finally:
        _split.reset(token)


def split_by_example(x: Shaped[Array, "b *rest"]) -> Shaped[Array, "b *rest"]:
    """`x` itself; its first dimension is the batch, and the compiler is to keep it on the devices of its examples.

    Left to itself it may follow the parameters instead: a matrix of which each device holds some rows makes it split
    the features of all examples and add up partial products, which takes the memory of the whole batch on every device.
    """
    sharding = _split.get()
    if sharding is None or sharding.mesh.size == 1:
        return x
    free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0], *free)))


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Around tracing: nothing is split."""
    token = _split.set(None)
    try:
        yield
    finally:
        _split.reset(token)


def feature_splits() -> int:
    """Into how many parts features are split, by tensor parallelism; 1 for none."""
    sharding = _split.get()
    return 1 if sharding is None else math.prod(sharding.mesh.shape[name] for name in _others(sharding))


def example_axes() -> tuple[Mesh, tuple[str, ...]] | None:
    """The mesh, and those of its axes over which examples are split; None where they are on one device."""
    sharding = _split.get()
    if sharding is None or sharding.mesh.size == 1:
        return None
    return sharding.mesh, _examples(sharding)


def on_each_device(
    function: Callable[..., Shaped[Array, "b t features"]], arguments: int, *, whole_features: bool = False
) -> Callable[..., Shaped[Array, "b t features"]]:
    """A function of so many arrays [B, T, F], called on each device with its own examples and its own features.

    The compiler cannot split by itself what is no operation of its own, such as a kernel.

    Args:
        whole_features: tensor parallelism leaves the features of these arrays on all its devices.
    """
    sharding = _split.get()
    if sharding is None or sharding.mesh.size == 1:
        return function
    spec = PartitionSpec(sharding.spec[0], None, None if whole_features else _others(sharding) or None)
    return jax.shard_map(
        function, mesh=sharding.mesh, in_specs=(spec,) * arguments, out_specs=spec, check_vma=whole_features
    )


def _others(sharding: NamedSharding) -> tuple[str, ...]:
    """The axes of the mesh over which examples are not split: tensor parallelism."""
    return tuple(name for name in sharding.mesh.axis_names if name not in _examples(sharding))


def _examples(sharding: NamedSharding) -> tuple[str, ...]:
    first = sharding.spec[0]
    return (first,) if isinstance(first, str) else tuple(first or ())
