"""What was computed of a source's examples, as a field of them."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from vit_jax.data.field import Field, Plane, Spec
from vit_jax.data.source import Source


class WithStored:
    """A source whose examples hold a row of an array, in place of what it was computed from or beside it.

    Args:
        source: gives the other fields.
        name: of the new field.
        rows: one for each of the source's examples.
        instead: fields that are left out, where there are some.
    """

    def __init__(self, source: Source, name: str, rows: Shaped[np.ndarray, "N ..."], instead: Set[str]):
        if len(rows) != len(source):
            raise ValueError(f"{len(rows)} rows for {len(source)} examples")
        self.source = source
        self.label_names = tuple(source.label_names)
        # Where it stands for something, nothing is decoded any more.
        self.in_memory = bool(instead) or getattr(source, "in_memory", False)
        self.remarks = tuple(getattr(source, "remarks", ()))
        self._name = name
        self._rows = rows
        self._instead = instead
        if (labels := getattr(source, "labels", None)) is not None:
            self.labels = labels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        kept = {name: value for name, value in self.source[index].items() if name not in self._instead}
        return kept | {self._name: self._rows[index]}


@dataclass(frozen=True)
class Stored(Field):
    """An array of every example, as it is."""

    shape: tuple[int, ...]
    dtype: str

    def spec(self, name: str) -> dict[str, Spec]:
        return {name: Spec(self.shape, self.dtype)}

    def read(self, raw: Any, where: str, plane: Plane | None) -> Shaped[np.ndarray, "..."]:
        return raw
