"""Some of a source's examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from vit_jax.data.source import Source


class Subset:
    """Some of a source's examples, with all of its class names.

    Args:
        indices: which, in their order.
        labels: theirs; None for those that the source knows.
        remarks: sentences beside those of the source.
    """

    def __init__(
        self,
        source: Source,
        indices: Int[np.ndarray, " n"],
        labels: Int[np.ndarray, " n"] | None = None,
        remarks: Sequence[str] = (),
    ):
        self.source = source
        self.label_names = tuple(source.label_names)
        self.in_memory = getattr(source, "in_memory", False)
        self.remarks = (*getattr(source, "remarks", ()), *remarks)
        self._indices = indices
        for name in ("labels", "texts"):  # known without reading, where the source has them at all
            if (known := getattr(source, name, None)) is not None:
                some = known[indices] if isinstance(known, np.ndarray) else [known[i] for i in indices]
                setattr(self, name, some)
        if labels is not None:
            self.labels = labels
        if (field_names := getattr(source, "field_names", None)) is not None:
            self.field_names = field_names

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.source[int(self._indices[index])])
