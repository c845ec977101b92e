"""A share of another source that is held out, or all of it but that share."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from vit_jax.data.source import Source
from vit_jax.errors import UserError
from vit_jax.naming import build_named
from vit_jax.ranges import Decay, Natural


class Part:
    """Some examples of a source, with all of its class names, and what else it knows of them.

    Args:
        indices: which.
    """

    def __init__(self, source: Source, indices: Int[np.ndarray, " n"]):
        self.source, self._indices = source, indices
        self.label_names = tuple(source.label_names)
        for name in ("field_names", "in_memory", "remarks"):
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))
        for name in ("labels", "texts"):
            if (known := getattr(source, name, None)) is not None:
                setattr(self, name, _at(known, indices))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.source[int(self._indices[index])])


def build(*, source: Mapping[str, Any], share: Decay, part: Literal["held", "rest"], seed: Natural = 0) -> Part:
    """Part of a source by a seeded permutation of its examples: a development set for a source that has none.

    Args:
        source: the section of the other source.
        share: of its examples that is held out, above 0; at least one is.
        part: what is held out ("held"), or the others ("rest"); each in the source's order.

    Raises:
        UserError: for a share of 0, or a source of which nothing would be left.
    """
    if not isinstance(source, Mapping):
        raise UserError(f"held_out takes a part of a source, and got {source!r}", "Give the section of a source")
    whole = build_named("source", source, "held_out.source")
    held = max(1, round(share * len(whole)))
    if not share or held >= len(whole):
        raise UserError(
            f"A share of {share} of {len(whole)} examples holds out {'nothing' if not share else 'all of them'}",
            "Give a share between 0 and 1, such as 0.1",
        )
    drawn = np.random.default_rng(seed).permutation(len(whole))
    return Part(whole, np.sort(drawn[:held] if part == "held" else drawn[held:]))


def _at(values: Sequence[Any], indices: Int[np.ndarray, " n"]) -> Sequence[Any]:
    return values[indices] if isinstance(values, np.ndarray) else [values[i] for i in indices]
