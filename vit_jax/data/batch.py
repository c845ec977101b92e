"""A batch on the device that says which of its fields were read, and names one that is missing."""

from collections.abc import Collection, Iterator, Mapping

import jax
from jaxtyping import Array

from vit_jax.errors import UserError


@jax.tree_util.register_pytree_node_class
class NotedBatch(Mapping[str, Array]):
    """What a loss and an evaluator get: a mapping from names to arrays.

    Args:
        arrays: of the batch.
        read: receives the names of the arrays that are read, while the reader is traced.
    """

    def __init__(self, arrays: Mapping[str, Array], read: set[str] | None = None):
        self._arrays = dict(arrays)
        self._read = set() if read is None else read

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            there = ", ".join(sorted(self._arrays))
            raise UserError(f"There is no field {name!r} in this data, which has {there}", "Add it to the data")
        self._read.add(name)
        return self._arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def get(self, name: str, default: Array | None = None) -> Array | None:
        """The array, or `default` where there is none."""
        if name not in self:
            return default
        return self[name]

    def replaced(self, **arrays: Array) -> "NotedBatch":
        """The same batch with other arrays in the place of some, or beside them; what is read of it is noted here."""
        return NotedBatch({**self._arrays, **arrays}, self._read)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def tree_flatten(self) -> tuple[list[Array], tuple[str, ...]]:
        """All of it is read by whoever transforms it as a whole."""
        return list(self.values()), tuple(self._arrays)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], arrays: Collection[Array]) -> "NotedBatch":
        return cls(dict(zip(names, arrays, strict=True)))
