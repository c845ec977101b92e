"""Activations stay split by example, however the parameters that they meet are split."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import NamedSharding, PartitionSpec
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
