"""A class of each example, or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.errors import UserError
from vit_jax.ranges import Count


@dataclass(frozen=True)
class Classes(Field):
    """int32 [], or with `multi` multi-hot float32 [count].

    Args:
        count: of the classes; 0 for not known.
        multi: whether an example has any number of them.
        names: of the classes, where they are known; of the field "label" they are stored beside the fields.
    """

    count: int = 0
    multi: bool = False
    names: tuple[str, ...] = ()

    def spec(self, name: str) -> dict[str, Spec]:
        return {name: Spec((self.count,), "float32", 2) if self.multi else Spec((), "int32", max(self.count, 1))}

    def read(self, raw: Any, where: str, plane: Plane | None) -> int | Float32[np.ndarray, " K"]:
        """A class index; with `multi` a list of them, or multi-hot."""
        if not self.multi:
            return int(raw) if isinstance(raw, np.integer) else raw
        if isinstance(raw, np.ndarray) and raw.shape == (self.count,):
            return raw.astype(np.float32)
        several = raw.tolist() if isinstance(raw, np.ndarray) else raw
        several = several if isinstance(several, Sequence) and not isinstance(several, (str, bytes)) else [several]
        for label in several:
            if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < self.count:
                raise UserError(
                    f"{where} has label {label!r}, but there are {self.count} classes", "Number them from 0"
                )
        hot = np.zeros(self.count, np.float32)
        hot[list(several)] = 1
        return hot

    def to_json(self) -> dict[str, Any]:
        return {"name": "classes", "multi": self.multi} | ({"count": self.count} if self.count else {})


def build(*, data: Context, count: Count | None = None, multi: bool = False) -> Classes:
    """Classes.

    Args:
        count: how many there are; by default as many as the source has names for.
        multi: whether an example has any number of them.
    """
    known = count in (None, len(data.label_names))
    return Classes(len(data.label_names) if count is None else count, multi, data.label_names if known else ())
